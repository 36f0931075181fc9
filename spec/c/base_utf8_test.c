// needs: csrc/base
#include <string.h>
#include "../../csrc/base/utf8.h"
#include "test.h"

static size_t len_of(const char *s)
{
    return es_utf8_len((const unsigned char *)s, strlen(s));
}

static size_t printable(const char *s)
{
    return es_utf8_printable((const unsigned char *)s, strlen(s));
}

TEST(characters_of_every_length_are_told_from_what_is_none)
{
    CHECK_INT(len_of("a"), ==, 1);
    CHECK_INT(len_of("\xc3\xa4"), ==, 2);
    CHECK_INT(len_of("\xe2\x82\xac"), ==, 3);
    CHECK_INT(len_of("\xf0\x9f\x99\x82"), ==, 4);
    CHECK_INT(len_of("\x80"), ==, 0);             /* a continuation alone */
    CHECK_INT(len_of("\xc3"), ==, 0);             /* cut */
    CHECK_INT(len_of("\xe2\x82"), ==, 0);         /* cut */
    CHECK_INT(len_of("\xc0\xaf"), ==, 0);         /* overlong */
    CHECK_INT(len_of("\xed\xa0\x80"), ==, 0);     /* a surrogate */
    CHECK_INT(len_of("\xf4\x90\x80\x80"), ==, 0); /* above U+10FFFF */
}

TEST(what_a_terminal_would_obey_is_not_printable)
{
    CHECK_INT(printable("a"), ==, 1);
    CHECK_INT(printable("\xc3\xa4"), ==, 2);
    CHECK_INT(printable("\xe2\x82\xac"), ==, 3);
    CHECK_INT(printable("\xf0\x9f\x99\x82"), ==, 4);
    CHECK_INT(printable("\x1b[2J"), ==, 0);
    CHECK_INT(printable("\n"), ==, 0);
    CHECK_INT(printable("\x7f"), ==, 0);
    CHECK_INT(printable("\xc2\x9b"), ==, 0); /* CSI in one character */
    CHECK_INT(printable("\xc2\xa0"), ==, 2);
    CHECK_INT(printable("\xe2\x80\xa8"), ==, 0); /* a line separator */
    CHECK_INT(printable("\xe2\x80\xae"), ==, 0); /* right to left from here */
    CHECK_INT(printable("\xe2\x81\xa7"), ==, 0);
    CHECK_INT(printable("\xff"), ==, 0);
}
