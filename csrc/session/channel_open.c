/* Opening named streams and streaming calls: both are a REQUEST that announces messages. */
#include "channel.h"

static int encode_request(struct es_channel *c, const char *name, size_t len, const struct es_call_opts *o,
                          const uint8_t *payload, size_t payload_len)
{
    struct es_session *s = c->st.session;
    struct es_host *h = s->host;
    struct es_request r = {0};
    struct es_packed k;
    uint64_t now = session_now(s);
    int rc = codec_out(s, c->codec, &r.codec);

    if (rc != 0)
        return rc;
    pack_payload(s, &c->packing, payload, payload_len, &k);
    r.flags = k.flags | (c->sends ? ES_FLAG_MORE : 0) | (c->receives ? ES_FLAG_STREAM : 0) |
              (o->idempotent ? ES_FLAG_IDEMPOTENT : 0) | (o->retry ? ES_FLAG_RETRY : 0);
    r.request_id = c->request_id;
    r.method.p = (const uint8_t *)name;
    r.method.n = len;
    r.priority = c->priority;
    if (c->deadline != ES_NEVER)
        r.deadline_ms = c->deadline > now ? (c->deadline - now + ES_MILLI - 1) / ES_MILLI : 1;
    es_buf_clear(&h->scratch_kv);
    es_buf_clear(&h->scratch);
    rc = kv_put_for(s, &h->scratch_kv, o->metadata, o->n_metadata, &r.metadata);
    if (rc == 0)
        rc = es_request_encode_head(&h->scratch, &r, packed_len(&k));
    return rc == 0 ? pack_append(&h->scratch, 0, 0, &k) : rc;
}

/* The encoded REQUEST goes out on a stream of its own, with FIN when no message will follow. */
static int send_request(struct es_channel *c)
{
    struct es_session *s = c->st.session;
    struct es_host *h = s->host;
    int rc = 0;

    if (c->deadline != ES_NEVER)
        rc = es_wheel_add(&h->wheel, &c->st.deadline, c->deadline);
    if (rc == 0)
        rc = es_link_open(s->link, ES_DIR_BIDI, &c->st, &c->st.ls);
    if (rc != 0)
        return rc;
    flow_marks(c->st.ls, &h->cfg.limits.stream_queue);
    if (c->priority != 3)
        es_link_priority(c->st.ls, ES_PRIO_FIRST + c->priority);
    rc = es_link_write(c->st.ls, h->scratch.p, h->scratch.n, !c->sends);
    if (rc != 0) {
        es_link_stop(c->st.ls, ES_APP_CANCELLED);
        es_link_reset(c->st.ls, ES_APP_CANCELLED);
    }
    c->send_over = !c->sends;
    return rc;
}

/* ES_OK: it may be opened now. */
static int check_open(struct es_session *s, const char *name, size_t len, const struct es_call_opts *o,
                      size_t payload_len)
{
    uint64_t wire;
    int rc = codec_out(s, o->codec, &wire);

    if (!session_may_send(s) || s->draining)
        return ES_ERR_CLOSED;
    if (!s->established) {
        return flow_block_events(s);
    }
    if (!es_name_valid(name, len) || o->priority > 7 || rc == ES_ERR_INVAL)
        return ES_ERR_INVAL;
    if (rc == ES_ERR_AGAIN)
        (void)flow_block_events(s); /* whoever waits is told with the peer's HELLO */
    if (rc != 0)
        return rc;
    if (payload_len > s->peer_max_message)
        return s->hello_seen || payload_len > s->host->cfg.limits.max_message ? ES_ERR_TOO_LARGE
                                                                              : ES_ERR_AGAIN;
    return s->n_channels_out >= s->peer_max_named_streams ? ES_ERR_LIMIT : 0;
}

static int open_channel(struct es_channel *c, const char *name, size_t len, const struct es_call_opts *o,
                        const uint8_t *payload, size_t payload_len)
{
    struct es_session *s = c->st.session;
    int rc;

    c->ours = 1;
    c->codec = o->codec;
    c->priority = o->priority;
    if (o->packing != NULL)
        c->packing = *o->packing;
    c->request_id = o->request_id != 0 ? o->request_id : session_next_request_id(s);
    /* A stream may live for hours: only a deadline that was asked for counts. */
    c->deadline = o->deadline != ES_DEADLINE_DEFAULT ? o->deadline : ES_NEVER;
    rc = encode_request(c, name, len, o, payload, payload_len);
    if (rc == 0)
        rc = send_request(c);
    es_buf_clear(&s->host->scratch);
    es_buf_shrink(&s->host->scratch, ES_LINK_HIGH);
    if (rc != 0) {
        channel_free(c);
        return rc;
    }
    c->meter = es_host_meter(s->host, 1, name, len);
    c->counted = 1;
    s->n_channels_out++;
    s->host->stats.streams_out++;
    return 0;
}

int es_channel_open(struct es_session *s, const char *name, size_t len, const struct es_call_opts *opts,
                    void *user, struct es_channel **out)
{
    struct es_call_opts defaults;
    struct es_channel *c;
    int rc;

    if (opts == NULL) {
        es_call_opts_default(&defaults);
        defaults.codec = ES_CODEC_RAW;
        opts = &defaults;
    }
    rc = check_open(s, name, len, opts, 0);
    if (rc != 0)
        return rc;
    c = channel_new(s, NULL);
    if (c == NULL)
        return ES_ERR_NOMEM;
    c->user = user;
    c->sends = c->receives = 1;
    rc = open_channel(c, name, len, opts, NULL, 0);
    if (rc == 0)
        *out = c;
    return rc;
}

int es_channel_call(struct es_session *s, const char *name, size_t len, const struct es_call_opts *opts,
                    unsigned flags, const uint8_t *payload, size_t payload_len, void *user,
                    struct es_channel **out)
{
    struct es_call_opts defaults;
    struct es_channel *c;
    int rc;

    if (opts == NULL) {
        es_call_opts_default(&defaults);
        opts = &defaults;
    }
    if ((flags & (ES_CHANNEL_IN | ES_CHANNEL_OUT)) == 0)
        return ES_ERR_INVAL; /* that is es_session_request */
    rc = check_open(s, name, len, opts, payload_len);
    if (rc != 0)
        return rc;
    c = channel_new(s, NULL);
    if (c == NULL)
        return ES_ERR_NOMEM;
    c->user = user;
    c->call = 1;
    c->sends = (flags & ES_CHANNEL_IN) != 0;
    c->receives = (flags & ES_CHANNEL_OUT) != 0;
    rc = open_channel(c, name, len, opts, payload, payload_len);
    if (rc == 0)
        *out = c;
    return rc;
}
