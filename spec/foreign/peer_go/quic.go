package main

// quic-go as the rest sees it, whatever Debian calls it (quic_029.go, quic_050.go).

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

var quicConfig = &config{MaxIdleTimeout: 30 * time.Second, HandshakeIdleTimeout: 5 * time.Second, EnableDatagrams: true}

func dialAddress(ctx context.Context, address string, t *tls.Config) (conn, error) {
	return dialAddr(ctx, address, t, quicConfig)
}

func listen(address string, t *tls.Config) (func() (conn, error), net.Addr, error) {
	l, err := listenAddr(address, t, quicConfig)
	if err != nil {
		return nil, nil, err
	}
	return func() (conn, error) { return l.Accept(context.Background()) }, l.Addr(), nil
}

func resumed(c conn) bool { return c.ConnectionState().TLS.DidResume }

func streamCodeOf(err error) (uint64, bool) {
	var e *streamError
	if errors.As(err, &e) {
		return uint64(e.ErrorCode), true
	}
	return 0, false
}

func closeOf(err error) (code uint64, why string, remote, ok bool) {
	var e *applicationError
	if errors.As(err, &e) {
		return uint64(e.ErrorCode), e.ErrorMessage, e.Remote, true
	}
	return 0, "", false, false
}
