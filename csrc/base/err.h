/* Error numbers of the C core, and the stable codes that users and the wire see.
 *
 * Two vocabularies, on purpose. `enum es_err` is what a C function returns: 0 or a negative number that says
 * what went wrong in this process. `enum es_status` is what a call ends with, on the wire and in Lua: gRPC's
 * numbers 0-16, each beside one stable code string ("timeout", "method_not_found", ...).
 * Numbers of foreign libraries (ngtcp2, GnuTLS, errno) are converted where the library is called and never
 * stored.
 */
#ifndef ES_BASE_ERR_H
#define ES_BASE_ERR_H

#include <stddef.h>

enum es_err {
    ES_OK = 0,
    ES_ERR_NOMEM = -1,        /* memory could not be had */
    ES_ERR_INVAL = -2,        /* an argument makes no sense */
    ES_ERR_AGAIN = -3,        /* nothing to do now; try again after an event */
    ES_ERR_CLOSED = -4,       /* the object is closed or its peer is gone */
    ES_ERR_IO = -5,           /* the operating system refused; errno was logged or is in the close info */
    ES_ERR_PROTOCOL = -6,     /* the peer broke the protocol */
    ES_ERR_TOO_LARGE = -7,    /* a message, a name or a datagram is over its limit */
    ES_ERR_LIMIT = -8,        /* out of credit or out of slots; nothing was sent */
    ES_ERR_TIMEOUT = -9,      /* the deadline passed */
    ES_ERR_TLS = -10,         /* certificate, key or handshake trouble; the text says which */
    ES_ERR_NOT_FOUND = -11,   /* no such name */
    ES_ERR_EXISTS = -12,      /* the name is taken */
    ES_ERR_UNSUPPORTED = -13, /* the build, the kernel or the peer cannot do that */
    ES_ERR_CORRUPT = -14,     /* a checksum does not match: bytes came that were not sent */
    ES_ERR_METADATA = -15     /* metadata is larger than the peer takes */
};

/* gRPC's status numbers (grpc/grpc doc/statuscodes.md). */
enum es_status {
    ES_STATUS_OK = 0,
    ES_STATUS_CANCELLED = 1,
    ES_STATUS_UNKNOWN = 2,
    ES_STATUS_INVALID_ARGUMENT = 3,
    ES_STATUS_TIMEOUT = 4, /* DEADLINE_EXCEEDED */
    ES_STATUS_NOT_FOUND = 5,
    ES_STATUS_ALREADY_EXISTS = 6,
    ES_STATUS_PERMISSION_DENIED = 7,
    ES_STATUS_RESOURCE_EXHAUSTED = 8,
    ES_STATUS_FAILED_PRECONDITION = 9,
    ES_STATUS_ABORTED = 10,
    ES_STATUS_OUT_OF_RANGE = 11,
    ES_STATUS_METHOD_NOT_FOUND = 12, /* UNIMPLEMENTED */
    ES_STATUS_INTERNAL = 13,
    ES_STATUS_UNAVAILABLE = 14,
    ES_STATUS_DATA_LOSS = 15,
    ES_STATUS_UNAUTHENTICATED = 16
};

/* Was the call executed? The number goes on the wire. */
enum es_processed { ES_PROCESSED_NO = 0, ES_PROCESSED_MAYBE = 1, ES_PROCESSED_YES = 2 };

/* Application error codes of CONNECTION_CLOSE, RESET_STREAM, STOP_SENDING and CANCEL (docs/PROTOCOL.md). */
enum es_app_error {
    ES_APP_NONE = 0x00,
    ES_APP_INTERNAL = 0x01,
    ES_APP_PROTOCOL = 0x02,
    ES_APP_TOO_LARGE = 0x03,
    ES_APP_CLOSED_CRITICAL = 0x04,
    ES_APP_EXCESSIVE_LOAD = 0x05,
    ES_APP_HELLO = 0x06,
    ES_APP_UNKNOWN_STREAM = 0x08,
    ES_APP_CANCELLED = 0x10,
    ES_APP_REFUSED = 0x11,
    ES_APP_DEADLINE = 0x12,
    ES_APP_NO_MORE_WANTED = 0x13,
    ES_APP_SESSION_CLOSED = 0x14,
    ES_APP_USER = 0x100 /* + n: a user's own code n */
};

/* A short English text for an es_err ("out of memory"). Never NULL. */
const char *es_strerror(int err);

/* The stable code string of an es_err that users see ("resource_exhausted" for ES_ERR_NOMEM). Never NULL;
 * "internal" for numbers that are none. */
const char *es_err_code(int err);

/* The stable code string of a status ("timeout" for 4). Never NULL; "unknown" for numbers out of range. */
const char *es_status_code(int status);

/* The status of a code string: the gRPC meanings and the seed's kinds (serialization -> INVALID_ARGUMENT 3,
 * protocol -> INTERNAL 13, connection_closed and io -> UNAVAILABLE 14). A user's own code gives 2 (UNKNOWN).
 */
int es_status_of_code(const char *code, size_t len);

#endif
