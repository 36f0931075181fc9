/* Heads. All text of a head lies in one buffer; what is taken away stays there until it is worth a copy. */
#include "head.h"
#include <string.h>
#include "../../../csrc/base/err.h"
#include "../../../csrc/base/mem.h"

#define PARTS 5

struct span { /* a piece of the text */
    uint32_t at, n;
};

struct line {
    struct span name, value;
};

struct et_head {
    struct es_buf text;
    struct line *line; /* owned */
    uint32_t lines, room;
    struct span part[PARTS];
    size_t bytes; /* in use; text.n counts what was taken away too */
    int kind, status, wide;
};

/* The lower-case form of the bytes of a token (RFC 9110 5.6.2); 0: not one of them. */
static const char token[256] = {
    ['!'] = '!', ['#'] = '#', ['$'] = '$', ['%'] = '%', ['&'] = '&', ['\''] = '\'', ['*'] = '*', ['+'] = '+',
    ['-'] = '-', ['.'] = '.', ['^'] = '^', ['_'] = '_', ['`'] = '`', ['|'] = '|',   ['~'] = '~', ['0'] = '0',
    ['1'] = '1', ['2'] = '2', ['3'] = '3', ['4'] = '4', ['5'] = '5', ['6'] = '6',   ['7'] = '7', ['8'] = '8',
    ['9'] = '9', ['A'] = 'a', ['B'] = 'b', ['C'] = 'c', ['D'] = 'd', ['E'] = 'e',   ['F'] = 'f', ['G'] = 'g',
    ['H'] = 'h', ['I'] = 'i', ['J'] = 'j', ['K'] = 'k', ['L'] = 'l', ['M'] = 'm',   ['N'] = 'n', ['O'] = 'o',
    ['P'] = 'p', ['Q'] = 'q', ['R'] = 'r', ['S'] = 's', ['T'] = 't', ['U'] = 'u',   ['V'] = 'v', ['W'] = 'w',
    ['X'] = 'x', ['Y'] = 'y', ['Z'] = 'z', ['a'] = 'a', ['b'] = 'b', ['c'] = 'c',   ['d'] = 'd', ['e'] = 'e',
    ['f'] = 'f', ['g'] = 'g', ['h'] = 'h', ['i'] = 'i', ['j'] = 'j', ['k'] = 'k',   ['l'] = 'l', ['m'] = 'm',
    ['n'] = 'n', ['o'] = 'o', ['p'] = 'p', ['q'] = 'q', ['r'] = 'r', ['s'] = 's',   ['t'] = 't', ['u'] = 'u',
    ['v'] = 'v', ['w'] = 'w', ['x'] = 'x', ['y'] = 'y', ['z'] = 'z',
};

struct et_head *et_head_new(enum et_head_kind kind)
{
    struct et_head *h = es_calloc(1, sizeof *h);

    if (h != NULL) {
        h->kind = kind;
        h->status = kind == ET_HEAD_RESPONSE ? 200 : 0;
    }
    return h;
}

void et_head_del(struct et_head *h)
{
    if (h != NULL) {
        es_buf_free(&h->text);
        es_free(h->line);
        es_free(h);
    }
}

enum et_head_kind et_head_kind(const struct et_head *h)
{
    return (enum et_head_kind)h->kind;
}

void et_head_widen(struct et_head *h)
{
    h->wide = 1;
}

size_t et_head_bytes(const struct et_head *h)
{
    return h->bytes;
}

/* ---- text ---- */

static struct et_text text_of(const struct et_head *h, struct span s)
{
    return (struct et_text){s.n != 0 ? (const char *)h->text.p + s.at : "", s.n};
}

static void move(struct es_buf *to, const struct et_head *h, struct span *s)
{
    uint32_t at = (uint32_t)to->n;

    if (s->n != 0) {
        memcpy(to->p + to->n, h->text.p + s->at, s->n);
        to->n += s->n;
    }
    s->at = at;
}

/* Copies what is in use into a buffer of its own. */
static int compact(struct et_head *h, size_t more)
{
    struct es_buf fresh = {NULL, 0, 0};

    if (es_buf_reserve(&fresh, h->bytes + more) != 0) {
        return ES_ERR_NOMEM;
    }
    for (int i = 0; i < PARTS; i++) {
        move(&fresh, h, &h->part[i]);
    }
    for (uint32_t i = 0; i < h->lines; i++) {
        move(&fresh, h, &h->line[i].name);
        move(&fresh, h, &h->line[i].value);
    }
    es_buf_free(&h->text);
    h->text = fresh;
    return 0;
}

static int append(struct et_head *h, const char *p, size_t n, struct span *out)
{
    *out = (struct span){(uint32_t)h->text.n, (uint32_t)n};
    return es_buf_put(&h->text, p, n);
}

/* Room for n bytes more, so that appending them moves nothing. */
static int make_room(struct et_head *h, size_t n)
{
    if (h->text.n > 2 * h->bytes + 4096) {
        return compact(h, n);
    }
    return es_buf_reserve(&h->text, n);
}

/* Text of a caller that is our own would be taken away by make_room. */
static int is_ours(const struct et_head *h, const char *p)
{
    uintptr_t at = (uintptr_t)p, base = (uintptr_t)h->text.p;

    return h->text.p != NULL && at >= base && at < base + h->text.cap;
}

/* ---- what may be where ---- */

static int is_token(const char *p, size_t n, int slash)
{
    for (size_t i = 0; i < n; i++) {
        if (token[(uint8_t)p[i]] == 0 && !(slash && p[i] == '/')) {
            return 0;
        }
    }
    return 1;
}

static int is_scheme(const char *p, size_t n)
{
    if (n > 0 && !((p[0] | 0x20) >= 'a' && (p[0] | 0x20) <= 'z')) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        if (!(((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '-' ||
              c == '.')) {
            return 0;
        }
    }
    return 1;
}

/* Host and port (RFC 3986 3.2), without the name of a user: whoever sends one means to deceive. */
static int is_authority(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        if (!(((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (c >= '0' && c <= '9') ||
              (c != '\0' && strchr("-._~!$&'()*+,;=:[]%", c) != NULL))) {
            return 0;
        }
    }
    return 1;
}

static int is_path(const char *p, size_t n)
{
    if (n > 0 && p[0] != '/' && !(n == 1 && p[0] == '*')) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        if ((uint8_t)p[i] <= 0x20 || (uint8_t)p[i] >= 0x7f || p[i] == '#') {
            return 0;
        }
    }
    return 1;
}

static int has_control(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (((uint8_t)p[i] < 0x20 && p[i] != '\t') || p[i] == 0x7f) {
            return 1;
        }
    }
    return 0;
}

/* Whether one of eight bytes may be a control character: less than 0x20, or 0x7f. Never "no" when there is
 * one. */
static int may_have_control(const char *p)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones * 0x80;
    uint64_t x, del;

    memcpy(&x, p, sizeof x);
    del = x ^ (ones * 0x7f);
    return (((x - ones * 0x20) & ~x & tops) | ((del - ones) & ~del & tops)) != 0;
}

/* Values are most of a head: eight bytes at a time. */
static int is_value(const char *p, size_t n)
{
    for (; n >= 8; p += 8, n -= 8) {
        if (may_have_control(p) && has_control(p, 8)) {
            return 0;
        }
    }
    return !has_control(p, n);
}

static int may_be(enum et_head_part part, const char *p, size_t n)
{
    switch (part) {
    case ET_METHOD:
        return is_token(p, n, 0);
    case ET_SCHEME:
        return is_scheme(p, n);
    case ET_AUTHORITY:
        return is_authority(p, n);
    case ET_PATH:
        return is_path(p, n);
    case ET_PROTOCOL:
        return is_token(p, n, 1);
    }
    return 0;
}

static size_t most_bytes(const struct et_head *h)
{
    return ET_HEAD_MAX_BYTES + (h->wide ? ET_HEAD_SPARE_BYTES : 0);
}

static size_t most_fields(const struct et_head *h)
{
    return ET_HEAD_MAX_FIELDS + (h->wide ? ET_HEAD_SPARE_FIELDS : 0);
}

/* ---- the line ---- */

struct et_text et_head_part(const struct et_head *h, enum et_head_part part)
{
    return text_of(h, h->part[part]);
}

int et_head_set_part(struct et_head *h, enum et_head_part part, const char *p, size_t n)
{
    struct span s;
    size_t before = h->part[part].n;
    char *own = NULL;
    int rv;

    if (h->kind != ET_HEAD_REQUEST || !may_be(part, p, n)) {
        return ES_ERR_INVAL;
    }
    if (h->bytes - before + n > most_bytes(h)) {
        return ES_ERR_LIMIT;
    }
    if (n != 0 && is_ours(h, p)) {
        if ((own = es_malloc(n)) == NULL) {
            return ES_ERR_NOMEM;
        }
        p = memcpy(own, p, n);
    }
    rv = make_room(h, n);
    if (rv == 0) {
        (void)append(h, p, n, &s);
        h->part[part] = s;
        h->bytes = h->bytes - before + n;
    }
    es_free(own);
    return rv;
}

int et_head_status(const struct et_head *h)
{
    return h->status;
}

int et_head_set_status(struct et_head *h, int status)
{
    if (h->kind != ET_HEAD_RESPONSE || status < 100 || status > 999) {
        return ES_ERR_INVAL;
    }
    h->status = status;
    return 0;
}

/* A number of digits only, below 2^63; -1: it is none. */
static int64_t number(struct et_text t)
{
    int64_t v = 0;

    if (t.n == 0) {
        return -1;
    }
    for (size_t i = 0; i < t.n; i++) {
        int d = t.p[i] - '0';
        if (d < 0 || d > 9 || v > (INT64_MAX - d) / 10) {
            return -1;
        }
        v = v * 10 + d;
    }
    return v;
}

/* -1: there is none; -2: it is no number, or two different ones. */
static int64_t length_of(const struct et_head *h)
{
    int64_t length = -1;

    for (size_t i = 0; (i = et_head_find(h, "content-length", 14, i)) != SIZE_MAX; i++) {
        int64_t v = number(text_of(h, h->line[i].value));
        if (v < 0 || (length >= 0 && v != length)) {
            return -2;
        }
        length = v;
    }
    return length;
}

int64_t et_head_length(const struct et_head *h)
{
    int64_t length = length_of(h);

    return length >= 0 ? length : -1;
}

/* ---- fields ---- */

size_t et_head_count(const struct et_head *h)
{
    return h->lines;
}

struct et_field et_head_field(const struct et_head *h, size_t i)
{
    return (struct et_field){text_of(h, h->line[i].name), text_of(h, h->line[i].value)};
}

size_t et_head_find(const struct et_head *h, const char *name, size_t n, size_t from)
{
    for (size_t i = from; i < h->lines; i++) {
        if (h->line[i].name.n == n && memcmp(h->text.p + h->line[i].name.at, name, n) == 0) {
            return i;
        }
    }
    return SIZE_MAX;
}

static int more_lines(struct et_head *h)
{
    uint32_t room = h->room != 0 ? h->room * 2 : 12;
    struct line *line;

    if (h->lines < h->room) {
        return 0;
    }
    line = es_realloc(h->line, room * sizeof *line);
    if (line == NULL) {
        return ES_ERR_NOMEM;
    }
    h->line = line;
    h->room = room;
    return 0;
}

static int is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static int add(struct et_head *h, const char *name, size_t nn, const char *value, size_t nv)
{
    struct line *l;

    if (make_room(h, nn + nv) != 0 || more_lines(h) != 0) {
        return ES_ERR_NOMEM;
    }
    l = &h->line[h->lines++];
    (void)append(h, name, nn, &l->name);
    for (size_t i = 0; i < nn; i++) {
        uint8_t *c = h->text.p + l->name.at + i;
        *c = (uint8_t)token[*c];
    }
    (void)append(h, value, nv, &l->value);
    h->bytes += nn + nv;
    return 0;
}

/* `fields` and `bytes`: of what is there, so many are about to be replaced. */
static int add_checked(struct et_head *h, struct et_text name, struct et_text value, size_t fields,
                       size_t bytes)
{
    char *own = NULL;
    int rv;

    for (; value.n > 0 && is_blank(value.p[0]); value.p++, value.n--)
        ;
    for (; value.n > 0 && is_blank(value.p[value.n - 1]); value.n--)
        ;
    if (name.n == 0 || !is_token(name.p, name.n, 0) || !is_value(value.p, value.n)) {
        return ES_ERR_INVAL;
    }
    if (h->lines - fields >= most_fields(h) || name.n + value.n > most_bytes(h) ||
        h->bytes - bytes + name.n + value.n > most_bytes(h)) {
        return ES_ERR_LIMIT;
    }
    if (is_ours(h, name.p) || (value.n != 0 && is_ours(h, value.p))) {
        if ((own = es_malloc(name.n + value.n)) == NULL) {
            return ES_ERR_NOMEM;
        }
        memcpy(own, name.p, name.n);
        memcpy(own + name.n, value.p, value.n);
        name.p = own;
        value.p = own + name.n;
    }
    rv = add(h, name.p, name.n, value.p, value.n);
    es_free(own);
    return rv;
}

int et_head_add(struct et_head *h, const char *name, size_t nn, const char *value, size_t nv)
{
    return add_checked(h, (struct et_text){name, nn}, (struct et_text){value, nv}, 0, 0);
}

/* Names are compared without regard to case, since this is for users too. */
static int same_name(const struct et_head *h, uint32_t i, const char *name, size_t n)
{
    struct et_text t = text_of(h, h->line[i].name);

    if (t.n != n) {
        return 0;
    }
    for (size_t k = 0; k < n; k++) {
        if (token[(uint8_t)name[k]] != t.p[k]) {
            return 0;
        }
    }
    return 1;
}

/* Takes lines of that name away that are in front of `end`. The text stays where it is. */
static size_t take_away(struct et_head *h, const char *name, size_t n, uint32_t end)
{
    uint32_t to = 0, gone;

    for (uint32_t i = 0; i < h->lines; i++) {
        if (i < end && same_name(h, i, name, n)) {
            h->bytes -= (size_t)h->line[i].name.n + h->line[i].value.n;
        } else {
            h->line[to++] = h->line[i];
        }
    }
    gone = h->lines - to;
    h->lines = to;
    return gone;
}

size_t et_head_remove(struct et_head *h, const char *name, size_t nn)
{
    return take_away(h, name, nn, h->lines);
}

int et_head_set(struct et_head *h, const char *name, size_t nn, const char *value, size_t nv)
{
    size_t first = SIZE_MAX, fields = 0, bytes = 0;
    struct et_text t;
    struct line fresh;
    int rv;

    for (uint32_t i = 0; i < h->lines; i++) {
        if (same_name(h, i, name, nn)) {
            first = first == SIZE_MAX ? i : first;
            fields++;
            bytes += (size_t)h->line[i].name.n + h->line[i].value.n;
        }
    }
    rv = add_checked(h, (struct et_text){name, nn}, (struct et_text){value, nv}, fields, bytes);
    if (rv != 0 || fields == 0) {
        return rv;
    }
    /* The new one takes the place of the first old one. */
    t = text_of(h, h->line[h->lines - 1].name);
    take_away(h, t.p, t.n, h->lines - 1);
    fresh = h->line[h->lines - 1];
    memmove(&h->line[first + 1], &h->line[first], (h->lines - 1 - first) * sizeof *h->line);
    h->line[first] = fresh;
    return 0;
}

/* ---- what is about one connection ---- */

static const struct {
    const char *name;
    size_t n;
} hops[] = {{"connection", 10},       {"host", 4},    {"keep-alive", 10},
            {"proxy-connection", 16}, {"upgrade", 7}, {"http2-settings", 14},
            {"transfer-encoding", 17}};

int et_head_is_hop(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof hops / sizeof *hops; i++) {
        if (hops[i].n == n && memcmp(hops[i].name, name, n) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Runs through a list (RFC 9110 5.6.1): the next member of it without its blanks, 0 at the end. */
static int next_member(const char **p, const char *end, struct et_text *out)
{
    while (*p < end) {
        const char *from = *p, *to = memchr(from, ',', (size_t)(end - from));

        to = to != NULL ? to : end;
        *p = to < end ? to + 1 : end;
        for (; from < to && is_blank(*from); from++)
            ;
        for (; to > from && is_blank(to[-1]); to--)
            ;
        if (to > from) {
            *out = (struct et_text){from, (size_t)(to - from)};
            return 1;
        }
    }
    return 0;
}

/* Whether a value of TE has the member "trailers"; parameters and weights of others do not matter. */
static int says_trailers(struct et_text te)
{
    const char *p = te.p, *end = te.p + te.n;
    struct et_text m;

    while (next_member(&p, end, &m)) {
        const char *semi = memchr(m.p, ';', m.n);
        size_t n = semi != NULL ? (size_t)(semi - m.p) : m.n;
        for (; n > 0 && is_blank(m.p[n - 1]); n--)
            ;
        if (n == 8) {
            char low[8];
            for (int i = 0; i < 8; i++) {
                low[i] = token[(uint8_t)m.p[i]];
            }
            if (memcmp(low, "trailers", 8) == 0) {
                return 1;
            }
        }
    }
    return 0;
}

void et_head_strip(struct et_head *h, const struct et_text *connection, size_t connections)
{
    int trailers = 0;

    for (size_t i = 0; (i = et_head_find(h, "te", 2, i)) != SIZE_MAX; i++) {
        trailers |= says_trailers(text_of(h, h->line[i].value));
    }
    for (size_t i = 0; connection != NULL && i < connections; i++) {
        const char *p = connection[i].p, *end = p + connection[i].n;
        struct et_text m;
        while (next_member(&p, end, &m)) {
            take_away(h, m.p, m.n, h->lines);
        }
    }
    take_away(h, "te", 2, h->lines);
    for (size_t i = 0; i < sizeof hops / sizeof *hops; i++) {
        take_away(h, hops[i].name, hops[i].n, h->lines);
    }
    if (h->kind == ET_HEAD_TRAILERS) { /* RFC 9110 6.5.1: framing and routing have no place there */
        take_away(h, "content-length", 14, h->lines);
        take_away(h, "trailer", 7, h->lines);
    } else if (trailers && h->kind == ET_HEAD_REQUEST) {
        (void)et_head_add(h, "te", 2, "trailers", 8); /* there was room for more than that */
    }
}

struct et_head *et_head_copy(const struct et_head *h)
{
    struct et_head *c = es_malloc(sizeof *c);

    if (c == NULL) {
        return NULL;
    }
    *c = *h;
    memset(&c->text, 0, sizeof c->text);
    c->line = NULL;
    c->room = h->lines;
    if (h->lines != 0) {
        c->line = es_malloc(h->lines * sizeof *c->line);
        if (c->line == NULL) {
            es_free(c);
            return NULL;
        }
        memcpy(c->line, h->line, h->lines * sizeof *c->line);
    }
    if (es_buf_put(&c->text, h->text.p, h->text.n) != 0) {
        et_head_del(c);
        return NULL;
    }
    return c;
}
