/* Failures in words, and metadata in bytes. */
#include <stdio.h>
#include <string.h>
#include "internal.h"

void failure_set(struct es_failure *f, int status, int processed, const char *message)
{
    memset(f, 0, sizeof *f);
    f->status = status;
    f->code = es_status_code(status);
    f->code_len = strlen(f->code);
    f->message = message;
    f->message_len = strlen(message);
    f->processed = processed;
}

void failure_reset_code(struct es_failure *f, uint64_t code, uint8_t room[RESET_DETAILS_ROOM])
{
    static const uint8_t head[] = {0x81, 0xa5, 'r', 'e', 's', 'e', 't'}; /* MessagePack: { reset = ... } */
    uint64_t n = code - ES_APP_USER;
    size_t at = sizeof head, bytes = n < 0x80 ? 0 : n <= 0xff ? 1 : n <= 0xffff ? 2 : n <= 0xffffffff ? 4 : 8;

    if (code < ES_APP_USER)
        return;
    memcpy(room, head, sizeof head);
    if (bytes == 0)
        room[at++] = (uint8_t)n;
    else
        room[at++] = bytes == 1 ? 0xcc : bytes == 2 ? 0xcd : bytes == 4 ? 0xce : 0xcf;
    for (size_t i = bytes; i > 0; i--)
        room[at++] = (uint8_t)(n >> (8 * (i - 1)));
    f->codec = ES_CODEC_MSGPACK;
    f->details = room;
    f->details_len = at;
}

void failure_of_code(struct es_failure *f, uint64_t code, int processed, char *text, size_t n)
{
    switch (code) {
    case ES_APP_NONE:
    case ES_APP_CANCELLED:
    case ES_APP_NO_MORE_WANTED:
        failure_set(f, ES_STATUS_CANCELLED, processed, "cancelled by the peer");
        break;
    case ES_APP_DEADLINE:
        failure_set(f, ES_STATUS_TIMEOUT, processed, "the deadline passed at the peer");
        break;
    case ES_APP_REFUSED:
        failure_set(f, ES_STATUS_UNAVAILABLE, ES_PROCESSED_NO, "refused by the peer");
        break;
    case ES_APP_TOO_LARGE:
        failure_set(f, ES_STATUS_RESOURCE_EXHAUSTED, processed, "a message is larger than the peer takes");
        break;
    case ES_APP_EXCESSIVE_LOAD:
        failure_set(f, ES_STATUS_RESOURCE_EXHAUSTED, processed, "the peer is overloaded");
        break;
    default:
        if (code >= ES_APP_USER) {
            snprintf(text, n, "the peer reset the stream with code %llu",
                     (unsigned long long)(code - ES_APP_USER));
            failure_set(f, ES_STATUS_CANCELLED, processed, text);
        } else {
            snprintf(text, n, "the peer ended the stream with error 0x%llx", (unsigned long long)code);
            failure_set(f, ES_STATUS_UNAVAILABLE, processed, text);
        }
    }
}

const struct es_close_info *es_session_closed_by(const struct es_session *s)
{
    return s->dead ? &s->close_info : NULL;
}

int es_session_refusal(const struct es_close_info *info, size_t *code_len, const char **message)
{
    size_t n;

    if (info->cause != ES_CLOSE_PEER || !info->app || info->code != ES_APP_REFUSED)
        return 0;
    n = strspn(info->reason, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    if (n == 0 || n > 64 || strncmp(info->reason + n, ": ", 2) != 0)
        return 0;
    *code_len = n;
    *message = info->reason + n + 2;
    return 1;
}

void failure_of_close(struct es_failure *f, const struct es_close_info *info, int processed,
                      char text[CLOSE_TEXT_ROOM])
{
    const char *message;
    size_t n;

    if (es_session_refusal(info, &n, &message)) {
        failure_set(f, es_status_of_code(info->reason, n), ES_PROCESSED_NO, message);
        f->code = info->reason;
        f->code_len = n;
        return;
    }
    n = strlen(info->reason);
    memcpy(text, "the connection was closed: ", 27);
    memcpy(text + 27, info->reason, n + 1);
    if (es_close_is_certificate(info)) { /* whoever was not let in had no call run */
        failure_set(f, ES_STATUS_UNAUTHENTICATED, ES_PROCESSED_NO, text);
        return;
    }
    failure_set(f, ES_STATUS_UNAVAILABLE, processed, n > 0 ? text : "the connection was closed");
    f->code = "connection_closed";
    f->code_len = strlen(f->code);
}

size_t utf8_cut(const char *s, size_t n, size_t max)
{
    if (n <= max)
        return n;
    /* Continuation bytes are 10xxxxxx: step back to the first byte of the character that is cut. */
    n = max;
    while (n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80)
        n--;
    return n;
}

int kv_replace(const struct es_session *s, struct es_buf *b, size_t *count, const struct es_pair_kv *pairs,
               size_t n)
{
    struct es_kv kv;
    int rc;

    es_buf_clear(b);
    rc = kv_put_for(s, b, pairs, n, &kv);
    if (rc != 0)
        es_buf_clear(b);
    *count = rc == 0 ? kv.count : 0;
    return rc;
}

int kv_put_for(const struct es_session *s, struct es_buf *b, const struct es_pair_kv *pairs, size_t n,
               struct es_kv *out)
{
    int rc = kv_put(b, pairs, n, out);

    return rc == 0 && out->n > s->peer_max_metadata ? ES_ERR_METADATA : rc;
}

int kv_put(struct es_buf *b, const struct es_pair_kv *pairs, size_t n, struct es_kv *out)
{
    size_t count = 0;

    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < n; i++) {
        int rc = es_kv_add(b, &count, pairs[i].key, pairs[i].key_len, pairs[i].value, pairs[i].value_len);
        if (rc != 0)
            return rc;
    }
    if (count > 0) {
        out->p = b->p;
        out->n = b->n;
        out->count = count;
    }
    return 0;
}
