/* Which libraries are at work, for `echostream --version` and bug reports. */
#include <gnutls/gnutls.h>
#include "compat.h"
#include "endpoint.h"

const char *es_transport_ngtcp2_version(void)
{
    return ngtcp2_version(0)->version_str;
}

const char *es_transport_gnutls_version(void)
{
    return gnutls_check_version(NULL);
}
