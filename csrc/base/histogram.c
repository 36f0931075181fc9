#include "histogram.h"

uint64_t es_histogram_upper(unsigned index)
{
    unsigned octave = index / ES_HISTOGRAM_SUB, sub = index % ES_HISTOGRAM_SUB;

    if (index >= ES_HISTOGRAM_BUCKETS - 1)
        return UINT64_MAX;
    if (octave == 0)
        return sub + 1;
    return (uint64_t)(ES_HISTOGRAM_SUB + sub + 1) << (octave - 1);
}

double es_histogram_quantile(const struct es_histogram *h, double q)
{
    double wanted = q * (double)h->count, seen = 0;

    if (h->count == 0)
        return 0;
    for (unsigned i = 0; i < ES_HISTOGRAM_BUCKETS; i++) {
        double n = (double)h->bucket[i];
        double low, high;

        if (n == 0 || seen + n < wanted) {
            seen += n;
            continue;
        }
        low = i > 0 ? (double)es_histogram_upper(i - 1) : 0;
        high = (double)es_histogram_upper(i);
        if (high > (double)h->max)
            high = (double)h->max;
        if (wanted < seen)
            wanted = seen;
        return low + (high - low) * (wanted - seen) / n;
    }
    return (double)h->max;
}

uint64_t es_histogram_at_most(const struct es_histogram *h, uint64_t v)
{
    unsigned end = es_histogram_index(v);
    uint64_t n = 0;

    if (v == 0)
        return 0;
    if (v >= h->max)
        return h->count;
    if (v == es_histogram_upper(end))
        end++;
    for (unsigned i = 0; i < end; i++)
        n += h->bucket[i];
    return n;
}

void es_histogram_merge(struct es_histogram *into, const struct es_histogram *from)
{
    for (unsigned i = 0; i < ES_HISTOGRAM_BUCKETS; i++)
        into->bucket[i] += from->bucket[i];
    into->count += from->count;
    into->sum += from->sum;
    if (from->max > into->max)
        into->max = from->max;
}
