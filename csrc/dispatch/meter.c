#include "meter.h"

#include <string.h>
#include "../base/mem.h"
#include "host.h"

struct es_meter *es_method_meter(struct es_method *m)
{
    while (m->newer != NULL)
        m = m->newer;
    if (m->meter == NULL)
        m->meter = es_calloc(1, sizeof *m->meter + 1);
    return m->meter;
}

static struct es_meter *meter_new(const char *name, size_t len)
{
    struct es_meter *m = es_calloc(1, sizeof *m + len + 1);

    if (m != NULL) {
        m->name_len = (uint16_t)len;
        memcpy(m->name, name, len);
    }
    return m;
}

struct es_meter *es_host_meter(struct es_host *h, int stream, const char *name, size_t len)
{
    struct es_meter *m = h->recent_meter[stream];

    if (m != NULL && m->name_len == len && memcmp(m->name, name, len) == 0)
        return m;
    m = es_map_get(&h->meters[stream], name, len);
    if (m != NULL) {
        h->recent_meter[stream] = m;
        return m;
    }
    if (h->meters[stream].n >= ES_METERS_OUT) {
        if (h->other_meter[stream] == NULL)
            h->other_meter[stream] = meter_new("", 0);
        return h->other_meter[stream];
    }
    m = meter_new(name, len);
    if (m != NULL && es_map_put(&h->meters[stream], name, len, m) != 0) {
        es_free(m);
        return NULL;
    }
    return m;
}
