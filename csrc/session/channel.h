/* Between channel.c and channel_in.c. */
#ifndef ES_SESSION_CHANNEL_H
#define ES_SESSION_CHANNEL_H

#include "internal.h"

struct es_channel *channel_new(struct es_session *s, struct es_link_stream *ls); /* NULL: no memory */
void channel_free(struct es_channel *c); /* the session may be gone after */
void channel_uncount(struct es_channel *c);
void channel_leave_method(struct es_channel *c);
void channel_drop_blocks(struct es_channel *c); /* messages that nobody will read */
/* Gives up both directions. The opener sends CANCEL and resets; the responder answers with `message`. */
void channel_abandon(struct es_channel *c, uint64_t code, const char *message);

/* The peer sent what cannot be taken: ends both directions and says why. code: NULL: the status's. */
void channel_give_up(struct es_channel *c, int status, const char *code, const char *why, uint64_t app_code);

/* The first error of a channel is kept. ES_ERR_NOMEM: without its words. */
int channel_set_error(struct es_channel *c, const struct es_failure *f);
void channel_set_error_text(struct es_channel *c, int status, int processed, const char *message);

/* Records for the binding. 0, or ES_ERR_NOMEM (the session is closing); may be repeated then. */
int channel_tell(struct es_channel *c, int kind);
int channel_wake_reader(struct es_channel *c);
int channel_tell_over(struct es_channel *c); /* after send_over or recv_over was set */

#endif
