#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../base/err.h"
#include "io.h"

static int parse_port(const char *text, uint16_t *port)
{
    char *end;
    unsigned long v;

    if (*text < '0' || *text > '9') {
        return ES_ERR_INVAL;
    }
    v = strtoul(text, &end, 10);
    if (*end != '\0' || v > 65535) {
        return ES_ERR_INVAL;
    }
    *port = (uint16_t)v;
    return 0;
}

int es_addr_parse(union es_addr *out, const char *text)
{
    char host[INET6_ADDRSTRLEN + 1];
    const char *start = text, *end, *port_text;
    int family = AF_INET;
    uint16_t port;
    size_t n;

    if (text[0] == '[') {
        start = text + 1;
        end = strchr(start, ']');
        if (end == NULL || end[1] != ':') {
            return ES_ERR_INVAL;
        }
        port_text = end + 2;
        family = AF_INET6;
    } else {
        end = strchr(text, ':');
        if (end == NULL) {
            return ES_ERR_INVAL;
        }
        port_text = end + 1;
    }
    n = (size_t)(end - start);
    if (n == 0 || n >= sizeof host || parse_port(port_text, &port) != 0) {
        return ES_ERR_INVAL;
    }
    memcpy(host, start, n);
    host[n] = '\0';

    memset(out, 0, sizeof *out);
    if (family == AF_INET6) {
        out->in6.sin6_family = AF_INET6;
        out->in6.sin6_port = htons(port);
        return inet_pton(AF_INET6, host, &out->in6.sin6_addr) == 1 ? 0 : ES_ERR_INVAL;
    }
    out->in4.sin_family = AF_INET;
    out->in4.sin_port = htons(port);
    return inet_pton(AF_INET, host, &out->in4.sin_addr) == 1 ? 0 : ES_ERR_INVAL;
}

char *es_addr_format(const union es_addr *a, char *buf, size_t n)
{
    char host[INET6_ADDRSTRLEN] = "?";

    if (a->sa.sa_family == AF_INET) {
        inet_ntop(AF_INET, &a->in4.sin_addr, host, sizeof host);
        snprintf(buf, n, "%s:%u", host, ntohs(a->in4.sin_port));
    } else if (a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr)) {
        /* People who dial 10.0.0.1 from a two-stack socket expect to read 10.0.0.1. */
        inet_ntop(AF_INET, &a->in6.sin6_addr.s6_addr[12], host, sizeof host);
        snprintf(buf, n, "%s:%u", host, ntohs(a->in6.sin6_port));
    } else if (a->sa.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof host);
        snprintf(buf, n, "[%s]:%u", host, ntohs(a->in6.sin6_port));
    } else {
        snprintf(buf, n, "?");
    }
    return buf;
}

int es_addr_fit(union es_addr *a, int family)
{
    struct in_addr v4 = a->in4.sin_addr;
    in_port_t port = a->in4.sin_port;

    if (a->sa.sa_family == family) {
        return 0;
    }
    if (a->sa.sa_family != AF_INET || family != AF_INET6) {
        return ES_ERR_INVAL;
    }
    memset(a, 0, sizeof *a);
    a->in6.sin6_family = AF_INET6;
    a->in6.sin6_port = port;
    a->in6.sin6_addr.s6_addr[10] = a->in6.sin6_addr.s6_addr[11] = 0xff;
    memcpy(&a->in6.sin6_addr.s6_addr[12], &v4, 4);
    return 0;
}

int es_addr_equal(const union es_addr *a, const union es_addr *b)
{
    if (a->sa.sa_family != b->sa.sa_family) {
        return 0;
    }
    if (a->sa.sa_family == AF_INET6) {
        return a->in6.sin6_port == b->in6.sin6_port &&
               memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, sizeof a->in6.sin6_addr) == 0;
    }
    return a->in4.sin_port == b->in4.sin_port && a->in4.sin_addr.s_addr == b->in4.sin_addr.s_addr;
}
