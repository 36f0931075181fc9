/* Makes the rest of the process repeat itself: TLS draws its randomness from getrandom(2) and looks at the
 * wall clock, so both are answered here, for this program and its libraries. With that a seed gives the same
 * bytes, sizes and schedule on every run, on its own or among thousands.
 *
 * GnuTLS keeps a generator per thread, filled on first use: the campaign runs each seed in a thread of its
 * own. */
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "campaign.h"

#define FIXED_TIME 1700000000

static struct es_sim_rand state;

void campaign_random_seed(uint64_t seed)
{
    es_sim_rand_seed(&state, seed, 11);
}

ssize_t getrandom(void *buf, size_t n, unsigned flags)
{
    uint8_t *p = buf;
    size_t i;

    (void)flags;
    for (i = 0; i < n; i++)
        p[i] = (uint8_t)(es_sim_rand_next(&state) >> 24);
    return (ssize_t)n;
}

time_t time(time_t *out)
{
    if (out)
        *out = FIXED_TIME;
    return FIXED_TIME;
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
    if (id == CLOCK_REALTIME) {
        ts->tv_sec = FIXED_TIME;
        ts->tv_nsec = 0;
        return 0;
    }
    return (int)syscall(SYS_clock_gettime, id, ts);
}
