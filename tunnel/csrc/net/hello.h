/* The server name (SNI, RFC 6066 3) of a ClientHello, before anybody answers it. Pure. */
#ifndef ET_NET_HELLO_H
#define ET_NET_HELLO_H

#include <stddef.h>
#include <stdint.h>

#define ET_HELLO_NAME 256
#define ET_HELLO_MAX  ((size_t)16 * 1024) /* bytes of a ClientHello; a larger one is refused */

/* p: the first n bytes of a connection. 0: the hello is whole, `name` is its server name in lower case, ""
 * when there is none. ES_ERR_AGAIN: it goes on. ES_ERR_PROTOCOL: that is no ClientHello of TLS, or a
 * malformed one.
 */
int et_hello_name(const uint8_t *p, size_t n, char name[ET_HELLO_NAME]);

#endif
