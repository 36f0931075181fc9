/* Writes the seed corpora of the frame and hello targets from the sample frames of the C specs (the golden
 * bytes of docs/PROTOCOL.md among them), and that of the http3 target from some of the rows of h3_rows.h:
 * `seeds DIRECTORY` fills DIRECTORY/frame, DIRECTORY/hello and DIRECTORY/http3. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "../c/frames.h"
#include "../c/h3_rows.h"

static size_t unhex(const char *hex, uint8_t *out)
{
    size_t n = 0;
    int digit = 0;

    for (; *hex != '\0'; hex++) {
        unsigned c = (unsigned char)*hex, v = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
        if (c == ' ') {
            continue;
        }
        if (digit++ % 2 == 0) {
            out[n] = (uint8_t)(v << 4);
        } else {
            out[n++] |= (uint8_t)v;
        }
    }
    return n;
}

static void save(const char *dir, const char *target, const char *name, const uint8_t *p, size_t n)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, target);
    mkdir(path, 0755);
    snprintf(path, sizeof(path), "%s/%s/%s", dir, target, name);
    f = fopen(path, "wb");
    if (f == NULL || fwrite(p, 1, n, f) != n || fclose(f) != 0) {
        perror(path);
        exit(1);
    }
}

/* Of a row the parts, as http3_fuzz.c reads them. */
static void save_row(const char *dir, const char *name, const struct h3_row *r)
{
    uint8_t out[8192];
    const char *text = r->say;
    size_t n = 0;

    if (*text != 'A') {
        memcpy(out, "\x00\x03\x00\x04\x00", 5); /* the control stream with empty SETTINGS */
        n = 5;
    }
    while (*text != '\0') {
        int where = *text++, what = *text == '!' ? 4 : *text == '^' ? 8 : 0;
        uint8_t bytes[4096];
        size_t len;

        text += what != 0;
        len = h3_bytes(bytes, &text);
        if (len > 255) {
            return;
        }
        out[n++] = (uint8_t)((where == 'B' ? 1 : where == 'U' ? 2 : where == '+' ? 3 : 0) | what);
        out[n++] = (uint8_t)len;
        memcpy(out + n, bytes, len);
        n += len;
        while (*text == ' ' || *text == ';') {
            text++;
        }
    }
    save(dir, "http3", name, out, n);
}

static void save_rows(const char *dir, const char *kind, const struct h3_row *rows, size_t n)
{
    char name[64];

    for (size_t i = 0; i < n; i += 7) {
        snprintf(name, sizeof name, "%s-%u", kind, (unsigned)i);
        save_row(dir, name, &rows[i]);
    }
}

int main(int argc, char **argv)
{
    uint8_t all[4096], one[512];
    size_t total = 2;

    if (argc != 2) {
        fprintf(stderr, "usage: seeds DIRECTORY\n");
        return 2;
    }
    memcpy(all, "\x00\x07", 2);
    for (size_t i = 0; i < N_SAMPLES; i++) {
        size_t n = unhex(samples[i].hex, one + 2);
        one[0] = (uint8_t)(i % 8); /* capabilities and limit */
        one[1] = (uint8_t)i;       /* cuts */
        save(argv[1], "frame", samples[i].name, one, n + 2);
        memcpy(all + total, one + 2, n);
        total += n;
        if (strncmp(samples[i].name, "hello", 5) == 0) {
            size_t head = one[3] < 0x40 ? 2 : 3; /* type and length */
            save(argv[1], "hello", samples[i].name, one + 2 + head, n - head);
        }
    }
    save(argv[1], "frame", "all", all, total);
    save_rows(argv[1], "frames", h3_frame_rows, N_ROWS(h3_frame_rows));
    save_rows(argv[1], "qpack", h3_qpack_rows, N_ROWS(h3_qpack_rows));
    save_rows(argv[1], "message", h3_message_rows, N_ROWS(h3_message_rows));
    save(argv[1], "hello", "minimal",
         (const uint8_t *)"\0\0\0"
                          "0123456789abcdef"
                          "\0",
         20);
    save(argv[1], "hello", "metadata",
         (const uint8_t *)"\x02\x01"
                          "a\x01"
                          "b\x03"
                          "c-d\0",
         11);
    return 0;
}
