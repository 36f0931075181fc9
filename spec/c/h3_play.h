/* Says the rows of h3_rows.h with the peer by hand of h3_env.h. */
#ifndef ES_SPEC_C_H3_PLAY_H
#define ES_SPEC_C_H3_PLAY_H

#include "h3_env.h"
#include "h3_rows.h"

/* The next part: `r` says it. 0 at the end. */
static int h3_say(struct raw *r, const char **text)
{
    static uint8_t bytes[65536];
    int where, what = 0;
    size_t n;

    while (**text == ' ' || **text == ';') {
        (*text)++;
    }
    if (**text == '\0') {
        return 0;
    }
    where = *(*text)++;
    if (**text == '!' || **text == '^') {
        what = *(*text)++;
    }
    n = h3_bytes(bytes, text);
    if (where == 'C') {
        r->stream = r->control;
    } else if (where != '+') {
        r->stream = NULL;
        CHECK_INT(es_link_open(r->link, where == 'B' ? ES_DIR_BIDI : ES_DIR_UNI, NULL, &r->stream), ==, 0);
        if (where == 'A') {
            r->control = r->stream;
        }
    }
    if (r->stream != NULL) {
        (void)es_link_write(r->stream, bytes, n, what == '!');
        if (what == '^') {
            r->pending_reset = r->stream;
        }
    }
    return 1;
}

#endif
