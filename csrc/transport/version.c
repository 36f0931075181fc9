/* The versions of QUIC that we speak, and those of the libraries at work. */
#include <gnutls/gnutls.h>
#include "internal.h"

/* The one to begin with first: everybody speaks it, and it is the same protocol (RFC 9369). */
const uint32_t es_versions[] = {NGTCP2_PROTO_VER_V1, NGTCP2_PROTO_VER_V2};
const size_t es_n_versions = 1 + ES_COMPAT_HAS_V2;

static const uint32_t second_first[] = {NGTCP2_PROTO_VER_V2, NGTCP2_PROTO_VER_V1};

int es_version_known(uint32_t wire)
{
    return es_version_number(wire) != 0;
}

int es_version_number(uint32_t wire)
{
    return wire == NGTCP2_PROTO_VER_V1 ? 1 : ES_COMPAT_HAS_V2 && wire == NGTCP2_PROTO_VER_V2 ? 2 : 0;
}

uint32_t es_version_wire(int version)
{
    return version == 1 ? NGTCP2_PROTO_VER_V1 : ES_COMPAT_HAS_V2 && version == 2 ? NGTCP2_PROTO_VER_V2 : 0;
}

const uint32_t *es_versions_preferred(uint32_t first, size_t *n)
{
    *n = es_n_versions;
    return ES_COMPAT_HAS_V2 && first == NGTCP2_PROTO_VER_V2 ? second_first : es_versions;
}

int es_transport_speaks(int version)
{
    return es_version_wire(version) != 0;
}

const char *es_transport_ngtcp2_version(void)
{
    return ngtcp2_version(0)->version_str;
}

const char *es_transport_gnutls_version(void)
{
    return gnutls_check_version(NULL);
}
