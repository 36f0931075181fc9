/* The keys of a WebSocket's opening handshake (RFC 6455 4): made for a backend, checked and answered for a
 * visitor. What follows the handshake is nobody's here. */
#ifndef ET_HTTP1_WEBSOCKET_H
#define ET_HTTP1_WEBSOCKET_H

#include <stddef.h>
#include <stdint.h>

#define ET_WEBSOCKET_KEY    24 /* base64 of 16 bytes */
#define ET_WEBSOCKET_ACCEPT 28 /* base64 of a SHA-1 */

int et_websocket_key_fine(const uint8_t *p, size_t n);
void et_websocket_key(const uint8_t random[16], char out[ET_WEBSOCKET_KEY]);
void et_websocket_accept(const char key[ET_WEBSOCKET_KEY], char out[ET_WEBSOCKET_ACCEPT]);

#endif
