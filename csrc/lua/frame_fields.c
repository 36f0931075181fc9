#include "frame_fields.h"

#include <string.h>
#include "../session/session.h"

#define U64(s, m, def)                                                                                       \
    {                                                                                                        \
#m, ES_FIELD_U64, offsetof(struct es_##s, m), def, 0                                                 \
    }
#define BYTES(s, m)                                                                                          \
    {                                                                                                        \
#m, ES_FIELD_BYTES, offsetof(struct es_##s, m), 0, 0                                                 \
    }
#define KV(s, m)                                                                                             \
    {                                                                                                        \
#m, ES_FIELD_KV, offsetof(struct es_##s, m), 0, 0                                                    \
    }
#define CODEC(s, def)                                                                                        \
    {                                                                                                        \
        "codec", ES_FIELD_CODEC, offsetof(struct es_##s, codec), def, 0                                      \
    }
#define FLAG(name, bit)                                                                                      \
    {                                                                                                        \
        name, ES_FIELD_FLAG, 0, bit, 0                                                                       \
    }
#define OPTIONAL(s, m, bit)                                                                                  \
    {                                                                                                        \
#m, ES_FIELD_OPTIONAL, offsetof(struct es_##s, m), bit, 0                                            \
    }
#define PARAM(m, kind, number)                                                                               \
    {                                                                                                        \
#m, kind, offsetof(struct es_hello, m), number, 0                                                    \
    }
#define RESPONSE(n, kind, m, only)                                                                           \
    {                                                                                                        \
        n, kind, offsetof(struct es_response, m), 0, only                                                    \
    }
#define END                                                                                                  \
    {                                                                                                        \
        NULL, 0, 0, 0, 0                                                                                     \
    }

static const struct es_field hello[] = {
    U64(hello, min_minor, 0),
    U64(hello, max_minor, 0),
    U64(hello, caps, 0),
    {"instance", ES_FIELD_INSTANCE, offsetof(struct es_hello, instance), 0, 0},
    PARAM(max_message, ES_FIELD_PARAM, 1),
    PARAM(max_metadata, ES_FIELD_PARAM, 2),
    PARAM(max_calls, ES_FIELD_PARAM, 3),
    PARAM(agent, ES_FIELD_PARAM_BYTES, 5),
    PARAM(credentials, ES_FIELD_PARAM_KV, 6),
    PARAM(max_named_streams, ES_FIELD_PARAM, 7),
    END};

static const struct es_field request[] = {
    FLAG("more", ES_FLAG_MORE),   FLAG("stream", ES_FLAG_STREAM),   FLAG("idempotent", ES_FLAG_IDEMPOTENT),
    FLAG("retry", ES_FLAG_RETRY), CODEC(request, ES_CODEC_MSGPACK), U64(request, request_id, 0),
    BYTES(request, method),       U64(request, deadline_ms, 0),     U64(request, priority, 3),
    KV(request, metadata),        BYTES(request, payload),          END};

static const struct es_field response[] = {FLAG("idempotent", ES_FLAG_METHOD_IDEMPOTENT),
                                           CODEC(response, ES_CODEC_MSGPACK),
                                           U64(response, status, 0),
                                           KV(response, trailers),
                                           RESPONSE("payload", ES_FIELD_BYTES, payload, 1),
                                           RESPONSE("code", ES_FIELD_BYTES, code, 2),
                                           RESPONSE("message", ES_FIELD_BYTES, message, 2),
                                           RESPONSE("processed", ES_FIELD_PROCESSED, processed, 2),
                                           RESPONSE("retry_after_ms", ES_FIELD_U64, retry_after_ms, 2),
                                           RESPONSE("details", ES_FIELD_BYTES, payload, 2),
                                           END};

static const struct es_field head[] = {KV(head, metadata), END};

static const struct es_field data[] = {CODEC(data, ES_CODEC_RAW), OPTIONAL(data, seq, ES_FLAG_SEQ),
                                       OPTIONAL(data, wall_time_us, ES_FLAG_WALL), BYTES(data, payload), END};

static const struct es_field cancel[] = {U64(cancel, request_id, 0), U64(cancel, code, ES_APP_CANCELLED),
                                         END};

static const struct es_field event[] = {CODEC(wire_event, ES_CODEC_MSGPACK),
                                        U64(wire_event, seq, 0),
                                        BYTES(wire_event, name),
                                        OPTIONAL(wire_event, wall_time_us, ES_FLAG_WALL),
                                        KV(wire_event, metadata),
                                        BYTES(wire_event, payload),
                                        END};

static const struct es_field goaway[] = {U64(goaway, grace_ms, 0), U64(goaway, retry_after_ms, 0),
                                         BYTES(goaway, reason), END};

static const struct es_field ping[] = {U64(ping, t1, 0), END};
static const struct es_field pong[] = {U64(ping, t1, 0), U64(ping, t2, 0), U64(ping, t3, 0), END};

static const struct es_frame_spec specs[] = {
    {"hello", ES_FRAME_HELLO, hello},
    {"request", ES_FRAME_REQUEST, request},
    {"response", ES_FRAME_RESPONSE, response},
    {"head", ES_FRAME_HEAD, head},
    {"data", ES_FRAME_DATA, data},
    {"cancel", ES_FRAME_CANCEL, cancel},
    {"event", ES_FRAME_EVENT, event},
    {"goaway", ES_FRAME_GOAWAY, goaway},
    {"ping", ES_FRAME_PING, ping},
    {"pong", ES_FRAME_PONG, pong},
};
enum { N_SPECS = sizeof specs / sizeof specs[0] };

const struct es_frame_spec *es_frame_spec_by_name(const char *name)
{
    for (int i = 0; i < N_SPECS; i++) {
        if (strcmp(specs[i].name, name) == 0)
            return &specs[i];
    }
    return NULL;
}

const struct es_frame_spec *es_frame_spec_by_type(uint64_t type)
{
    for (int i = 0; i < N_SPECS; i++) {
        if (specs[i].type == type)
            return &specs[i];
    }
    return NULL;
}
