/* Two links joined in memory: no packets, no TLS, no clock. For unit specs of protocols, and for sessions
 * whose other end is in this process, because it speaks another protocol for a peer (lua/door.c).
 *
 *   struct es_pair *p;
 *   es_pair_new(&p);
 *   app->attach(app, es_pair_link(p, 1), NULL);      // 1: the accepting side
 *   client_app->attach(client_app, es_pair_link(p, 0), NULL);
 *   es_pair_establish(p);
 *   while (es_pair_pump(p, 7)) {}                    // delivers at most 7 bytes of each stream per call,
 * until nothing moves es_pair_del(p);                                  // closed() is delivered to a side
 * that has not had it
 *
 * Stream allowances and windows are settable, so that credit logic is testable. write_ref's release runs in
 * pump.
 */
#ifndef ES_LINK_PAIR_H
#define ES_LINK_PAIR_H

#include "link.h"

struct es_pair;

int es_pair_new(struct es_pair **out);
void es_pair_del(struct es_pair *p);
struct es_link *es_pair_link(struct es_pair *p, int server);
/* Limits of both sides: streams the peer may have open (bidi, uni), window per stream in bytes, largest
 * datagram. Before establish. */
void es_pair_limits(struct es_pair *p, size_t bidi, size_t uni, size_t window, size_t datagram);
/* Bytes a side may send on the whole connection beyond what came back as connection credit; default 8 MiB.
 * Before establish. The cap of held bytes is the link's hold_cap, which a test may set. */
void es_pair_connection_window(struct es_pair *p, uint64_t bytes);
void es_pair_establish(struct es_pair *p);
/* One round: moves at most `chunk` bytes of every stream each way (0: no limit), datagrams, resets, closes. 1
 * if anything moved. */
int es_pair_pump(struct es_pair *p, size_t chunk);
/* Calls fn whenever one of the links was used, so that there may be something to pump; also from inside a
 * pump. */
void es_pair_notify(struct es_pair *p, void (*fn)(void *), void *user);
/* What a side's peer_addr() says; copied, cut to 63 bytes. */
void es_pair_address(struct es_pair *p, int server, const char *peer);
/* Both sides have had their closed(). */
int es_pair_is_over(const struct es_pair *p);
/* The network dies: both sides get closed() with ES_CLOSE_IDLE at the next pump. */
void es_pair_cut(struct es_pair *p);

#endif
