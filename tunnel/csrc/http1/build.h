/* A struct et_head out of what the scan and llhttp found: the fields of one connection are taken away, the
 * form becomes the one that head/head.h describes. */
#ifndef ET_HTTP1_BUILD_H
#define ET_HTTP1_BUILD_H

#include "../head/head.h"
#include "scan.h"

/* Adds a field, unless it is one that is not passed on. ES_ERR_INVAL, ES_ERR_LIMIT, ES_ERR_NOMEM. */
int et_build_field(struct et_head *h, const struct et_scan *s, struct et_text name, struct et_text value);
/* The first line, the length, what Connection names. On ES_ERR_PROTOCOL *status and *why say what to answer.
 */
int et_build_finish(struct et_head *h, const struct et_scan *s, const uint8_t *block, const char *scheme,
                    int *status, const char **why);
/* Does the request ask for another protocol, in a way that can be granted? With a body, in HTTP/1.0 or
 * without "Connection: upgrade" it is an ordinary request. */
int et_build_upgrades(const struct et_scan *s);

#endif
