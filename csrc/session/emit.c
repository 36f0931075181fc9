/* Events of ours: lanes are opened on first use and stay open. */
#include <string.h>
#include "../base/mem.h"
#include "internal.h"

void lane_out_free(struct es_lane_out *l)
{
    struct es_session *s = l->st.session;

    for (int i = 0; i < ES_MAX_LANES; i++) {
        if (s->lanes_out[i] == l)
            s->lanes_out[i] = NULL;
    }
    strand_free(&l->st);
    es_free(l);
}

void emit_writable(struct es_session *s)
{
    if (s->emit_blocked && session_push(s, ES_EV_SESSION_WRITABLE, sizeof(struct es_event)) != NULL)
        flow_unblock_events(s);
}

static int lane_open(struct es_session *s, int lane)
{
    struct es_lane_out *l = es_calloc(1, sizeof *l);
    int rc;

    if (l == NULL)
        return ES_ERR_NOMEM;
    strand_init(&l->st, ES_STRAND_LANE_OUT, s, NULL, 0);
    rc = es_link_open(s->link, ES_DIR_UNI, &l->st, &l->st.ls);
    if (rc != 0) {
        es_free(l);
        return rc;
    }
    flow_marks(l->st.ls, &s->host->cfg.limits.event_queue);
    s->lanes_out[lane] = l;
    return 0;
}

struct emission { /* what is to be sent */
    struct es_wire_event e;
    const struct es_packing *packing;
    const struct es_pair_kv *metadata;
    size_t n_metadata;
    const uint8_t *payload;
    size_t len;
    void (*release)(void *); /* the payload need not be copied; NULL once the link has it */
    void *arg;
    int apart; /* encode() left the payload out of the scratch buffer */
};

/* The frame of one event into the host's scratch buffer, after what is there already. */
static int encode(struct es_session *s, struct emission *m, int datagram)
{
    struct es_host *h = s->host;
    size_t frame_at = h->scratch.n;
    struct es_packed k;
    int rc;

    pack_payload(s, m->packing, m->payload, m->len, &k);
    m->e.flags |= k.flags;
    es_buf_clear(&h->scratch_kv);
    rc = kv_put_for(s, &h->scratch_kv, m->metadata, m->n_metadata, &m->e.metadata);
    if (rc == 0)
        rc = es_event_encode_head(&h->scratch, &m->e, packed_len(&k), datagram);
    m->apart = m->release != NULL && k.flags == 0 && !datagram;
    if (rc == 0 && !m->apart)
        rc = pack_append(&h->scratch, frame_at, datagram, &k);
    return rc;
}

static int emit_datagram(struct es_session *s, struct emission *m)
{
    struct es_buf *b = &s->host->scratch;
    int rc;

    if (!s->hello_seen)
        return flow_block_events(s); /* whether the peer takes them is not known yet */
    if ((s->caps & ES_CAP_DATAGRAM) == 0)
        return ES_ERR_UNSUPPORTED;
    m->e.seq = s->datagram_seq;
    es_buf_clear(b);
    rc = encode(s, m, 1);
    if (rc == 0)
        rc = es_link_datagram(s->link, b->p, b->n);
    if (rc == 0)
        s->datagram_seq++;
    return rc;
}

static int emit_lane(struct es_session *s, int lane, struct emission *m)
{
    struct es_buf *b = &s->host->scratch;
    struct es_lane_out *l = s->lanes_out[lane];
    int rc;

    es_buf_clear(b);
    if (l == NULL) {
        /* Encoded first: a lane is not opened for an event that cannot be sent. */
        static const uint8_t type = ES_UNI_LANE;

        rc = es_buf_put(b, &type, 1);
    } else {
        if (flow_full(s, l->st.ls))
            return flow_block_events(s);
        m->e.seq = l->seq;
        rc = 0;
    }
    if (rc == 0)
        rc = encode(s, m, 0);
    if (rc == 0 && l == NULL) {
        rc = lane_open(s, lane);
        l = s->lanes_out[lane];
    }
    if (rc == ES_ERR_LIMIT)
        return flow_block_events(s);
    if (rc != 0)
        return rc;
    rc = es_link_write(l->st.ls, b->p, b->n, 0);
    if (rc == 0) {
        l->seq++;
        if (m->apart && es_link_write_ref(l->st.ls, m->payload, m->len, 0, m->release, m->arg) != 0)
            session_oom(s); /* half an event is on the lane */
        else if (m->apart)
            m->release = NULL;
    } else if (l->seq == 0) {
        es_link_reset(l->st.ls, ES_APP_CANCELLED); /* its type was not said: it is of no use */
        lane_out_free(l);
    }
    return rc;
}

void es_session_skip_events(struct es_session *s, int lane, uint64_t n)
{
    if (lane == ES_LANE_DATAGRAM)
        s->datagram_seq += n;
    else if (lane >= 0 && lane < ES_MAX_LANES && s->lanes_out[lane] != NULL)
        s->lanes_out[lane]->seq += n;
}

int es_session_emit_ref(struct es_session *s, const struct es_packing *packing, const char *name,
                        size_t name_len, int lane, int codec, const struct es_pair_kv *metadata,
                        size_t n_metadata, uint64_t wall_time_us, const uint8_t *payload, size_t len,
                        void (*release)(void *), void *arg)
{
    struct emission m = {.packing = packing != NULL ? packing : &s->host->cfg.packing,
                         .metadata = metadata,
                         .n_metadata = n_metadata,
                         .payload = payload,
                         .len = len,
                         .release = release,
                         .arg = arg};
    int rc;

    if (!session_may_send(s))
        return ES_ERR_CLOSED;
    if ((lane < 0 || lane >= ES_MAX_LANES) && lane != ES_LANE_DATAGRAM)
        return ES_ERR_INVAL;
    if (codec < 0 || !es_name_valid(name, name_len) || wall_time_us > ES_VARINT_MAX)
        return ES_ERR_INVAL;
    if (len > s->peer_max_message && (s->hello_seen || len > s->host->cfg.limits.max_message))
        return ES_ERR_TOO_LARGE;
    rc = codec_out(s, (uint64_t)codec, &m.e.codec);
    if (rc != 0 && rc != ES_ERR_AGAIN)
        return rc;
    if (!s->established || rc != 0 || len > s->peer_max_message)
        return flow_block_events(s); /* the latter two before the peer's HELLO, which may allow it */
    m.e.flags = wall_time_us != 0 ? ES_FLAG_WALL : 0;
    m.e.name.p = (const uint8_t *)name;
    m.e.name.n = name_len;
    m.e.wall_time_us = wall_time_us;
    rc = lane == ES_LANE_DATAGRAM ? emit_datagram(s, &m) : emit_lane(s, lane, &m);
    if (rc == 0) {
        s->host->stats.events_out++;
        if (m.release != NULL)
            release(arg); /* it was copied */
    }
    return rc;
}

int es_session_emit_packed(struct es_session *s, const struct es_packing *packing, const char *name,
                           size_t name_len, int lane, int codec, const struct es_pair_kv *metadata,
                           size_t n_metadata, uint64_t wall_time_us, const uint8_t *payload, size_t len)
{
    return es_session_emit_ref(s, packing, name, name_len, lane, codec, metadata, n_metadata, wall_time_us,
                               payload, len, NULL, NULL);
}

int es_session_emit(struct es_session *s, const char *name, size_t name_len, int lane, int codec,
                    const struct es_pair_kv *metadata, size_t n_metadata, uint64_t wall_time_us,
                    const uint8_t *payload, size_t len)
{
    return es_session_emit_packed(s, NULL, name, name_len, lane, codec, metadata, n_metadata, wall_time_us,
                                  payload, len);
}
