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
    l->stream_queue = (struct es_marks){256 * 1024, 128 * 1024};
    l->event_queue = (struct es_marks){1024 * 1024, 512 * 1024};
    l->session_queue = (struct es_marks){4 * 1024 * 1024, 2 * 1024 * 1024};
    l->total_queue = (struct es_marks){64 * 1024 * 1024, 32 * 1024 * 1024};
    l->request_timeout = 30 * ES_SECOND;
    l->assembly_timeout = 30 * ES_SECOND;
}
