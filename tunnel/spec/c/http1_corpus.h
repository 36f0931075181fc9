/* Reads the lists in tunnel/spec/support/malformed: lines of columns between " | ", with escapes. */
#ifndef ET_SPEC_HTTP1_CORPUS_H
#define ET_SPEC_HTTP1_CORPUS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../../csrc/base/buf.h"

struct corpus_row {
    struct es_buf column[3]; /* NUL-terminated beyond their end */
};

static void corpus_put(struct es_buf *b, const char *p, size_t n)
{
    if (es_buf_put(b, p, n) != 0) {
        abort();
    }
}

static void corpus_unescape(struct es_buf *out, const char *p, size_t n);

/* "%{text*N}"; gives its length. */
static size_t corpus_repeat(struct es_buf *out, const char *p)
{
    const char *end = strchr(p, '}'), *star = end;
    long times;

    while (*star != '*') {
        star--;
    }
    times = strtol(star + 1, NULL, 10);
    for (long i = 0; i < times; i++) {
        corpus_unescape(out, p + 2, (size_t)(star - p) - 2);
    }
    return (size_t)(end - p) + 1;
}

static void corpus_unescape(struct es_buf *out, const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        char c = p[i];

        if (c == '%' && i + 1 < n && p[i + 1] == '{') {
            i += corpus_repeat(out, p + i);
            continue;
        }
        i++;
        if (c == '\\') {
            c = p[i++];
            if (c == 'x') {
                char hex[3] = {p[i], p[i + 1], 0};
                c = (char)strtol(hex, NULL, 16);
                i += 2;
            } else {
                c = c == 'r' ? '\r' : c == 'n' ? '\n' : c == 't' ? '\t' : c;
            }
        }
        corpus_put(out, &c, 1);
    }
}

/* Calls fn with each row of a file; gives how many. `columns`: the last one takes the rest of the line. */
static size_t corpus_each(const char *name, int columns, void (*fn)(struct corpus_row *row, void *user),
                          void *user)
{
    char path[256], line[4096];
    size_t rows = 0;
    FILE *f;

    snprintf(path, sizeof(path), "tunnel/spec/support/malformed/%s", name);
    f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        struct corpus_row row;
        char *p = line;

        line[strcspn(line, "\n")] = '\0';
        if (line[0] == '#') {
            continue;
        }
        memset(&row, 0, sizeof(row));
        for (int i = 0; i < columns; i++) {
            char *end = i + 1 < columns ? strstr(p, " | ") : p + strlen(p);

            corpus_unescape(&row.column[i], p, (size_t)(end - p));
            corpus_put(&row.column[i], "", 1);
            row.column[i].n--;
            p = end + 3;
        }
        fn(&row, user);
        rows++;
        for (int i = 0; i < columns; i++) {
            es_buf_free(&row.column[i]);
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return rows;
}

#endif
