#!/bin/bash
# Runs a command on a machine of its own, so to speak: a network namespace with a veth pair, at whose other end avahi-daemon runs on a
# private system bus. Everything ends with the command. As root, inside:
#     unshare --net --mount --pid --fork --kill-child bash spec/support/avahi_namespace.sh lua5.4 …
# Exit status 99: this machine cannot do it; standard error says why.
set -u
unset LD_PRELOAD # a sanitizer is nothing for avahi and its tools, and .ci/env gives the module without one
cannot() {
    echo "avahi_namespace: $*" >&2
    exit 99
}
mount --make-rprivate / && mount -t tmpfs tmpfs /run && mount -t proc proc /proc || cannot "no mounts of its own"
mkdir -p /run/dbus /run/avahi-daemon /run/netns
ip link set lo up || cannot "no loopback"
ip netns add here && ip -n here link set lo up || cannot "no namespace within the namespace"
ip link add v0 type veth peer name v1 netns here || cannot "no veth pair"
ip addr add 10.77.0.1/24 dev v0 && ip link set v0 up
ip -n here addr add 10.77.0.2/24 dev v1 && ip -n here link set v1 up
# a second network, which the command joins when it likes to: v3 has no address and is down
ip link add v2 type veth peer name v3 netns here || cannot "no second veth pair"
ip addr add 10.78.0.1/24 dev v2 && ip link set v2 up

cat >/run/bus.conf <<'CONF'
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_type="method_return"/>
    <allow send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="signal"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
  </policy>
</busconfig>
CONF
cat >/run/avahi.conf <<'CONF'
[server]
host-name=avahi-there
use-ipv4=yes
use-ipv6=yes
enable-dbus=yes
[publish]
publish-hinfo=no
publish-workstation=no
[reflector]
[rlimits]
CONF
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus
dbus-daemon --config-file=/run/bus.conf --nofork --nopidfile 2>/run/bus.log &
until [ -S /run/bus ]; do
    kill -0 $! 2>/dev/null || cannot "dbus-daemon ended: $(cat /run/bus.log)"
    sleep 0.05
done
avahi-daemon --file=/run/avahi.conf --no-drop-root --no-chroot --no-rlimits >/run/avahi.log 2>&1 &
until grep -q 'Server startup complete' /run/avahi.log; do
    kill -0 $! 2>/dev/null || cannot "avahi-daemon ended: $(cat /run/avahi.log)"
    sleep 0.05
done
ip netns exec here "$@"
