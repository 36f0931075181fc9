/* The simulator's random numbers: xoshiro256** (Blackman and Vigna), seeded through splitmix64, so that a
 * seed gives the same run on every machine. Predictable on purpose: never for anything but simulations. */
#ifndef ES_SIM_RAND_H
#define ES_SIM_RAND_H

#include <stddef.h>
#include <stdint.h>

struct es_sim_rand {
    uint64_t s[4];
};

static inline uint64_t es_sim_splitmix(uint64_t *x)
{
    uint64_t z = *x += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* `stream` separates generators of one seed. */
static inline void es_sim_rand_seed(struct es_sim_rand *r, uint64_t seed, uint64_t stream)
{
    uint64_t x = seed;
    int i;

    x = es_sim_splitmix(&x) ^ stream;
    for (i = 0; i < 4; i++)
        r->s[i] = es_sim_splitmix(&x);
}

static inline uint64_t es_sim_rand_next(struct es_sim_rand *r)
{
    uint64_t *s = r->s, x = s[1] * 5, t = s[1] << 17;
    uint64_t out = (x << 7 | x >> 57) * 9;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = s[3] << 45 | s[3] >> 19;
    return out;
}

/* 0 <= x < n; n > 0. The bias is below n / 2^64. */
static inline uint64_t es_sim_rand_below(struct es_sim_rand *r, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)es_sim_rand_next(r) * n) >> 64);
}

static inline double es_sim_rand_unit(struct es_sim_rand *r) /* 0 <= x < 1 */
{
    return (double)(es_sim_rand_next(r) >> 11) * 0x1p-53;
}

#endif
