/* nghttp3 of both generations: 0.8 (Debian 12, Ubuntu 24.04) and 1.8 or later (Debian 13).
 *
 * The only file of the folder with an #if on the library's version. What this folder uses has the same names
 * in both, with one exception, below; so what differs otherwise (the setting of priorities, the reading of
 * the peer's settings) is not used. Error numbers differ: they are compared where they come from, and turned
 * into HTTP/3's codes by the library. */
#ifndef ES_HTTP3_COMPAT_H
#define ES_HTTP3_COMPAT_H

#include <nghttp3/nghttp3.h>

#endif
