#include <string.h>
#include "dispatcher.h"

void es_limits_default(struct es_limits *l)
{
    memset(l, 0, sizeof *l);
    l->max_message = 4 * 1024 * 1024;
    l->max_metadata = 16 * 1024;
    l->max_calls = 100;
    l->max_named_streams = 256;
    l->max_pending = 16384;
    l->request_timeout = 30 * ES_SECOND;
    l->assembly_timeout = 30 * ES_SECOND;
}
