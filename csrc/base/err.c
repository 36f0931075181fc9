#include "err.h"
#include <string.h>

const char *es_strerror(int err)
{
    switch (err) {
    case ES_OK:
        return "success";
    case ES_ERR_NOMEM:
        return "out of memory";
    case ES_ERR_INVAL:
        return "invalid argument";
    case ES_ERR_AGAIN:
        return "nothing to do now, try again later";
    case ES_ERR_CLOSED:
        return "closed";
    case ES_ERR_IO:
        return "input/output error";
    case ES_ERR_PROTOCOL:
        return "the peer broke the protocol";
    case ES_ERR_TOO_LARGE:
        return "too large";
    case ES_ERR_LIMIT:
        return "limit reached";
    case ES_ERR_TIMEOUT:
        return "timed out";
    case ES_ERR_TLS:
        return "TLS error";
    case ES_ERR_NOT_FOUND:
        return "not found";
    case ES_ERR_EXISTS:
        return "already exists";
    case ES_ERR_UNSUPPORTED:
        return "not supported";
    case ES_ERR_CORRUPT:
        return "the checksum does not match";
    case ES_ERR_METADATA:
        return "the metadata is larger than the peer's max_metadata";
    default:
        return "unknown error";
    }
}

static const char *const status_codes[] = {
    [ES_STATUS_OK] = "ok",
    [ES_STATUS_CANCELLED] = "cancelled",
    [ES_STATUS_UNKNOWN] = "unknown",
    [ES_STATUS_INVALID_ARGUMENT] = "invalid_argument",
    [ES_STATUS_TIMEOUT] = "timeout",
    [ES_STATUS_NOT_FOUND] = "not_found",
    [ES_STATUS_ALREADY_EXISTS] = "already_exists",
    [ES_STATUS_PERMISSION_DENIED] = "permission_denied",
    [ES_STATUS_RESOURCE_EXHAUSTED] = "resource_exhausted",
    [ES_STATUS_FAILED_PRECONDITION] = "failed_precondition",
    [ES_STATUS_ABORTED] = "aborted",
    [ES_STATUS_OUT_OF_RANGE] = "out_of_range",
    [ES_STATUS_METHOD_NOT_FOUND] = "method_not_found",
    [ES_STATUS_INTERNAL] = "internal",
    [ES_STATUS_UNAVAILABLE] = "unavailable",
    [ES_STATUS_DATA_LOSS] = "data_loss",
    [ES_STATUS_UNAUTHENTICATED] = "unauthenticated",
};

#define N_STATUS ((int)(sizeof(status_codes) / sizeof(status_codes[0])))

const char *es_err_code(int err)
{
    switch (err) {
    case ES_ERR_NOMEM:
    case ES_ERR_TOO_LARGE:
    case ES_ERR_LIMIT:
    case ES_ERR_METADATA:
        return "resource_exhausted";
    case ES_ERR_INVAL:
        return "invalid_argument";
    case ES_ERR_AGAIN:
    case ES_ERR_TLS: /* as gRPC does: no connection could be had, the text says that TLS is why */
        return "unavailable";
    case ES_ERR_CLOSED:
        return "connection_closed";
    case ES_ERR_IO:
        return "io";
    case ES_ERR_PROTOCOL:
        return "protocol";
    case ES_ERR_TIMEOUT:
        return "timeout";
    case ES_ERR_NOT_FOUND:
        return "not_found";
    case ES_ERR_EXISTS:
        return "already_exists";
    case ES_ERR_UNSUPPORTED:
        return "failed_precondition";
    default:
        return "internal";
    }
}

const char *es_status_code(int status)
{
    return status >= 0 && status < N_STATUS ? status_codes[status] : "unknown";
}

static int same(const char *name, const char *code, size_t len)
{
    return strlen(name) == len && memcmp(name, code, len) == 0;
}

int es_status_of_code(const char *code, size_t len)
{
    /* The seed's kinds that have no gRPC name of their own. */
    static const struct {
        const char *name;
        int status;
    } kinds[] = {
        {"serialization", ES_STATUS_INVALID_ARGUMENT},
        {"protocol", ES_STATUS_INTERNAL},
        {"connection_closed", ES_STATUS_UNAVAILABLE},
        {"io", ES_STATUS_UNAVAILABLE},
    };

    if (code == NULL) {
        return ES_STATUS_UNKNOWN;
    }
    for (int i = 0; i < N_STATUS; i++) {
        if (same(status_codes[i], code, len)) {
            return i;
        }
    }
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (same(kinds[i].name, code, len)) {
            return kinds[i].status;
        }
    }
    return ES_STATUS_UNKNOWN;
}
