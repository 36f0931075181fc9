/* Meters: how often each method and each named stream was used, how it ended and how long it took.
 *
 * Always on, so this is all that a call pays: a look at the clock that its step has read already, three
 * counters and a bucket. Incoming ones belong to the method; outgoing ones are found by name, and beyond
 * ES_METERS_OUT names they share one, since programs may make names up. A meter lives as long as its method
 * or host, and memory for it that cannot be had is a call that is not counted.
 */
#ifndef ES_DISPATCH_METER_H
#define ES_DISPATCH_METER_H

#include <stddef.h>
#include <stdint.h>
#include "../base/histogram.h"

#define ES_METERS_OUT     128 /* names of calls, and as many of streams */
#define ES_METER_STATUSES 17

struct es_meter {
    uint64_t refused;                   /* incoming: answered without a handler having run */
    uint64_t status[ES_METER_STATUSES]; /* how often it ended so, by enum es_status */
    struct es_histogram time;           /* ns, of everything that ended */
    uint16_t name_len;
    char name[]; /* outgoing: NUL-terminated too; "" for those beyond the limit */
};

static inline void es_meter_end(struct es_meter *m, int status, uint64_t ns)
{
    if (m == NULL)
        return;
    m->status[(unsigned)status < ES_METER_STATUSES ? status : 2 /* unknown */]++;
    es_histogram_add(&m->time, ns);
}

struct es_host;
struct es_method;
/* NULL: no memory. */
struct es_meter *es_method_meter(struct es_method *m);
/* Of calls that go out (stream 0), or named streams and streaming calls (1). NULL: no memory. */
struct es_meter *es_host_meter(struct es_host *h, int stream, const char *name, size_t len);

#endif
