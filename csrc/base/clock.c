#include "clock.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

static uint64_t read_clock(clockid_t id)
{
    struct timespec ts;

    if (clock_gettime(id, &ts) != 0) {
        abort(); /* both clocks exist on every kernel we run on */
    }
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

uint64_t es_clock_monotonic(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t es_clock_coarse(void)
{
#ifdef CLOCK_MONOTONIC_COARSE
    return read_clock(CLOCK_MONOTONIC_COARSE);
#else
    return read_clock(CLOCK_MONOTONIC);
#endif
}

uint64_t es_clock_wall(void)
{
    return read_clock(CLOCK_REALTIME);
}

void es_random(void *out, size_t n)
{
    uint8_t *p = out;

    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0) {
            if (errno == EINTR) {
                continue;
            }
            abort();
        }
        p += got;
        n -= (size_t)got;
    }
}
