/* Heads: what came of them, and what may be sent. */
#include <string.h>
#include <strings.h>
#include "../base/mem.h"
#include "internal.h"

struct es_h3_head *es_h3_head_new(void)
{
    struct es_h3_head *head = es_calloc(1, sizeof *head);

    if (head != NULL) {
        es_list_init(&head->node);
    }
    return head;
}

void es_h3_head_del(struct es_h3_head *head)
{
    if (head == NULL) {
        return;
    }
    es_buf_free(&head->bytes);
    es_free(head);
}

#define NO_NAME    UINT32_MAX
#define FIRST_ROOM 256 /* bytes: most heads need no more */

/* There is room for it. */
static void put_text(struct es_buf *b, nghttp3_vec v)
{
    (void)es_buf_put(b, v.base, v.len);
    (void)es_buf_put(b, "", 1);
}

static int pseudo_of(int32_t token)
{
    switch (token) {
    case NGHTTP3_QPACK_TOKEN__METHOD:
        return ES_H3_METHOD;
    case NGHTTP3_QPACK_TOKEN__SCHEME:
        return ES_H3_SCHEME;
    case NGHTTP3_QPACK_TOKEN__AUTHORITY:
        return ES_H3_AUTHORITY;
    case NGHTTP3_QPACK_TOKEN__PATH:
        return ES_H3_PATH;
    case NGHTTP3_QPACK_TOKEN__PROTOCOL:
        return ES_H3_PROTOCOL;
    case NGHTTP3_QPACK_TOKEN__STATUS:
        return ES_H3_STATUS;
    default:
        return -1;
    }
}

int es_h3_head_add(struct es_h3_head *head, int32_t token, nghttp3_vec name, nghttp3_vec value)
{
    struct es_buf *b = &head->bytes;
    int which = pseudo_of(token), rc;
    uint32_t len[2] = {which >= 0 ? NO_NAME : (uint32_t)name.len, (uint32_t)value.len};
    size_t need = sizeof len + name.len + value.len + 2;

    rc = es_buf_reserve(b, b->n == 0 && need < FIRST_ROOM ? FIRST_ROOM : need);
    if (rc != 0) {
        return rc;
    }
    (void)es_buf_put(b, len, sizeof len);
    if (which < 0) {
        put_text(b, name);
        put_text(b, value);
        head->n++;
        return 0;
    }
    head->pseudo[which].there = 1;
    head->pseudo[which].at = (uint32_t)b->n;
    head->pseudo[which].len = len[1];
    if (which == ES_H3_STATUS && value.len == 3) { /* three digits: nghttp3 has looked */
        head->status = (value.base[0] - '0') * 100 + (value.base[1] - '0') * 10 + (value.base[2] - '0');
    }
    put_text(b, value);
    return 0;
}

const char *es_h3_head_pseudo(const struct es_h3_head *head, enum es_h3_pseudo which, size_t *len)
{
    if (!head->pseudo[which].there) {
        return NULL;
    }
    *len = head->pseudo[which].len;
    return (const char *)head->bytes.p + head->pseudo[which].at;
}

int es_h3_head_status(const struct es_h3_head *head)
{
    return head->status;
}

size_t es_h3_head_count(const struct es_h3_head *head)
{
    return head->n;
}

int es_h3_head_next(const struct es_h3_head *head, size_t *at, struct es_h3_field *out)
{
    uint32_t len[2];
    const char *p;

    for (;;) {
        if (*at >= head->bytes.n) {
            return 0;
        }
        memcpy(len, head->bytes.p + *at, sizeof len);
        if (len[0] != NO_NAME) {
            break;
        }
        *at += sizeof len + len[1] + 1;
    }
    p = (const char *)head->bytes.p + *at + sizeof len;
    memset(out, 0, sizeof *out);
    out->name = p;
    out->name_len = len[0];
    out->value = p + len[0] + 1;
    out->value_len = len[1];
    *at += sizeof len + len[0] + len[1] + 2;
    return 1;
}

/* ---- what came ---- */

/* Is it there, and visible ASCII without the bytes in `not`? */
static int is_text(const struct es_h3_head *head, enum es_h3_pseudo which, const char * not )
{
    size_t n = 0;
    const char *s = es_h3_head_pseudo(head, which, &n);

    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c <= ' ' || c >= 0x7f || strchr(not, c) != NULL) {
            return 0;
        }
    }
    return n > 0;
}

/* The method is there. */
static int check_target(const struct es_h3_head *head)
{
    size_t len;
    const char *method = es_h3_head_pseudo(head, ES_H3_METHOD, &len), *path;

    if (strcmp(method, "CONNECT") == 0 && !head->pseudo[ES_H3_PROTOCOL].there) {
        return !head->pseudo[ES_H3_PATH].there && !head->pseudo[ES_H3_SCHEME].there;
    }
    if (!is_text(head, ES_H3_PATH, "#")) {
        return 0;
    }
    path = es_h3_head_pseudo(head, ES_H3_PATH, &len);
    return path[0] == '/' || (strcmp(method, "OPTIONS") == 0 && strcmp(path, "*") == 0);
}

/* Two names for one server are how requests get past those who look at one of them only. */
static int check_host(struct es_h3_head *head, const struct es_h3_field *host)
{
    size_t len;
    const char *authority = es_h3_head_pseudo(head, ES_H3_AUTHORITY, &len);

    if (authority == NULL) {
        head->pseudo[ES_H3_AUTHORITY].there = 1;
        head->pseudo[ES_H3_AUTHORITY].at = (uint32_t)(host->value - (const char *)head->bytes.p);
        head->pseudo[ES_H3_AUTHORITY].len = (uint32_t)host->value_len;
        return 1;
    }
    return len == host->value_len && strncasecmp(authority, host->value, len) == 0;
}

int es_h3_head_check_request(struct es_h3_head *head)
{
    struct es_h3_field f;
    size_t at = 0;

    if (!is_text(head, ES_H3_METHOD, "\"(),/:;<=>?@[\\]{}") || !check_target(head)) {
        return ES_ERR_PROTOCOL;
    }
    while (es_h3_head_next(head, &at, &f)) {
        if (f.name_len == 4 && memcmp(f.name, "host", 4) == 0 && !check_host(head, &f)) {
            return ES_ERR_PROTOCOL;
        }
    }
    return is_text(head, ES_H3_AUTHORITY, "@/?#\\") ? 0 : ES_ERR_PROTOCOL;
}

/* ---- what is sent ---- */

void es_h3_nv(nghttp3_nv *nv, const char *name, const char *value, size_t value_len)
{
    memset(nv, 0, sizeof *nv);
    nv->name = (uint8_t *)(uintptr_t)name;
    nv->namelen = strlen(name);
    nv->value = (uint8_t *)(uintptr_t)value;
    nv->valuelen = value_len;
    nv->flags = NGHTTP3_NV_FLAG_NONE;
}

static int is_name(const struct es_h3_field *f, const char *const *names)
{
    for (; *names != NULL; names++) {
        if (**names == *f->name && strlen(*names) == f->name_len &&
            memcmp(*names, f->name, f->name_len) == 0) {
            return 1;
        }
    }
    return 0;
}

/* A token without capitals (RFC 9114 4.2). Not the library's check: 1.8 lets capitals pass. */
static int is_field_name(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];

        if (!((c >= 'a' && c <= 'z') || c == '-' || (c >= '0' && c <= '9')) &&
            (c == '\0' || strchr("!#$%&'*+.^_`|~", c) == NULL)) {
            return 0;
        }
    }
    return n > 0;
}

static int may_send(const struct es_h3_field *f)
{
    static const char *const of_a_connection[] = {"connection",        "keep-alive", "proxy-connection",
                                                  "transfer-encoding", "upgrade",    NULL};
    static const char *const te[] = {"te", NULL};

    if (!is_field_name(f->name, f->name_len) || is_name(f, of_a_connection)) {
        return 0;
    }
    for (size_t i = 0; i < f->value_len; i++) {
        unsigned char c = (unsigned char)f->value[i];

        if ((c < ' ' && c != '\t') || c == 0x7f) {
            return 0;
        }
    }
    return !is_name(f, te) || (f->value_len == 8 && memcmp(f->value, "trailers", 8) == 0);
}

int es_h3_fields_out(nghttp3_nv *nv, const struct es_h3_field *f, size_t n)
{
    static const char *const secrets[] = {"authorization", "proxy-authorization", "cookie", "set-cookie",
                                          NULL};

    for (size_t i = 0; i < n; i++) {
        if (!may_send(&f[i])) {
            return ES_ERR_INVAL;
        }
        nv[i].name = (uint8_t *)(uintptr_t)f[i].name;
        nv[i].namelen = f[i].name_len;
        nv[i].value = (uint8_t *)(uintptr_t)f[i].value;
        nv[i].valuelen = f[i].value_len;
        nv[i].flags =
            f[i].secret || is_name(&f[i], secrets) ? NGHTTP3_NV_FLAG_NEVER_INDEX : NGHTTP3_NV_FLAG_NONE;
    }
    return 0;
}

int es_h3_content_length(const struct es_h3_field *f, size_t n, uint64_t *out)
{
    static const char *const name[] = {"content-length", NULL};
    int found = 0;

    *out = UINT64_MAX;
    for (size_t i = 0; i < n; i++) {
        uint64_t v = 0;

        if (!is_name(&f[i], name)) {
            continue;
        }
        if (found || f[i].value_len == 0 || f[i].value_len > 18) {
            return ES_ERR_INVAL;
        }
        for (size_t k = 0; k < f[i].value_len; k++) {
            if (f[i].value[k] < '0' || f[i].value[k] > '9') {
                return ES_ERR_INVAL;
            }
            v = v * 10 + (uint64_t)(f[i].value[k] - '0');
        }
        found = 1;
        *out = v;
    }
    return 0;
}

int es_h3_out_begin(struct es_h3_out *o, size_t room)
{
    o->n = 0;
    o->nv = room <= sizeof o->few / sizeof *o->few ? o->few : es_malloc(room * sizeof *o->nv);
    return o->nv != NULL ? 0 : ES_ERR_NOMEM;
}

void es_h3_out_end(struct es_h3_out *o)
{
    if (o->nv != o->few) {
        es_free(o->nv);
    }
}
