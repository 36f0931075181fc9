/* What differs between the versions of libnghttp2: 1.52 (Debian 12) and 1.64 (Debian 13). Nothing else knows.
 */
#ifndef ET_HTTP2_COMPAT_H
#define ET_HTTP2_COMPAT_H

#include <nghttp2/nghttp2.h>

/* From 1.60 on the functions that count in ssize_t have successors that count in nghttp2_ssize (ptrdiff_t).
 */
#if NGHTTP2_VERSION_NUM >= 0x013c00
typedef nghttp2_ssize h2_ssize;
typedef nghttp2_data_provider2 h2_provider;
#define h2_mem_recv        nghttp2_session_mem_recv2
#define h2_mem_send        nghttp2_session_mem_send2
#define h2_submit_request  nghttp2_submit_request2
#define h2_submit_response nghttp2_submit_response2
#else
typedef ssize_t h2_ssize;
typedef nghttp2_data_provider h2_provider;
#define h2_mem_recv        nghttp2_session_mem_recv
#define h2_mem_send        nghttp2_session_mem_send
#define h2_submit_request  nghttp2_submit_request
#define h2_submit_response nghttp2_submit_response
#endif

/* Debian 12's 1.52 has these two by its security updates; elsewhere they came with 1.57 and 1.61. The macro
 * of the version cannot tell, so the oldest one is taken to be Debian's. */
#if NGHTTP2_VERSION_NUM == 0x013400 || NGHTTP2_VERSION_NUM >= 0x013d00
#define H2_LIMITS_RESETS        1
#define H2_LIMITS_CONTINUATIONS 1
#endif

#endif
