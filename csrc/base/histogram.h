/* A histogram of non-negative integers (nanoseconds, bytes, counts) with a bounded relative error.
 *
 * Log-linear: eight buckets between each power of two and the next, so a bucket is at most an eighth of its
 * lower bound wide and a quantile is off by no more than that. A bucket holds the values above its lower
 * bound and up to its upper bound, so "how many were at most 2^k" is exact. Recording is a handful of
 * instructions and never fails.
 */
#ifndef ES_BASE_HISTOGRAM_H
#define ES_BASE_HISTOGRAM_H

#include <stdint.h>

#define ES_HISTOGRAM_SUB_BITS 3
#define ES_HISTOGRAM_SUB      (1 << ES_HISTOGRAM_SUB_BITS)
#define ES_HISTOGRAM_TOP      44 /* values above 2^44 (4.9 hours, 16 TiB) have one bucket, the last */
#define ES_HISTOGRAM_BUCKETS  (ES_HISTOGRAM_SUB * (ES_HISTOGRAM_TOP - ES_HISTOGRAM_SUB_BITS + 1) + 1)

struct es_histogram { /* all zero: empty */
    uint64_t count, sum, max;
    uint64_t bucket[ES_HISTOGRAM_BUCKETS];
};

static inline unsigned es_histogram_index(uint64_t v)
{
    uint64_t below = v != 0 ? v - 1 : 0; /* upper bounds belong to their bucket */
    unsigned e;

    if (below < ES_HISTOGRAM_SUB)
        return (unsigned)below;
    if (below >= UINT64_C(1) << ES_HISTOGRAM_TOP)
        return ES_HISTOGRAM_BUCKETS - 1;
    e = 63 - (unsigned)__builtin_clzll(below);
    return (e - ES_HISTOGRAM_SUB_BITS + 1) * ES_HISTOGRAM_SUB +
           (unsigned)((below >> (e - ES_HISTOGRAM_SUB_BITS)) & (ES_HISTOGRAM_SUB - 1));
}

static inline void es_histogram_add(struct es_histogram *h, uint64_t v)
{
    h->bucket[es_histogram_index(v)]++;
    h->count++;
    h->sum += v;
    if (v > h->max)
        h->max = v;
}

/* The largest value that falls into a bucket: UINT64_MAX of the last one. */
uint64_t es_histogram_upper(unsigned index);
/* The value that a share q (0 to 1) of what was recorded does not exceed, interpolated within its bucket; 0
 * when nothing was. */
double es_histogram_quantile(const struct es_histogram *h, double q);
/* How many of the recorded values were at most v: exact for powers of two and other bounds of buckets, else
 * rounded down to the bound below. */
uint64_t es_histogram_at_most(const struct es_histogram *h, uint64_t v);
void es_histogram_merge(struct es_histogram *into, const struct es_histogram *from);

#endif
