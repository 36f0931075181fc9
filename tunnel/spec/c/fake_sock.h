/* A struct et_sock without a kernel: bytes are put in by the test, what is written lies in `wire`, and time
 * moves when the test says so. For tests of codecs, which see nothing of it but net/sock.h. */
#ifndef ET_SPEC_FAKE_SOCK_H
#define ET_SPEC_FAKE_SOCK_H

#include "../../csrc/net/sock.h"

struct fake {
    struct et_sock *s;         /* NULL once closed() was told */
    struct es_buf wire;        /* owned: what the peer got */
    size_t room;               /* bytes that the kernel takes a step; SIZE_MAX: any */
    int paused, finished;      /* seen by the test */
    int closed, graceful, err; /* the codec asked for it; closed() was told with err */
};

void fake_open(struct fake *f);                          /* zeroes it */
void fake_free(struct fake *f);                          /* closes first, if need be */
void fake_data(struct fake *f, const void *p, size_t n); /* bytes come, then a step */
void fake_eof(struct fake *f);                           /* the peer's FIN, then a step */
void fake_lost(struct fake *f, int err);                 /* the connection broke */
void fake_step(struct fake *f);                          /* flush, send, close */
void fake_after(struct fake *f, uint64_t ns);            /* time passes */

#endif
