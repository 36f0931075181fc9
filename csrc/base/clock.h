/* The only readings of the system's clocks and the only source of unpredictable bytes. Everything else gets
 * time as an argument. */
#ifndef ES_BASE_CLOCK_H
#define ES_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

uint64_t es_clock_monotonic(void);   /* ns, CLOCK_MONOTONIC */
uint64_t es_clock_coarse(void);      /* the same to a few milliseconds, at half the price */
uint64_t es_clock_wall(void);        /* ns since 1970 */
void es_random(void *out, size_t n); /* getrandom(2); aborts only if the kernel has no randomness */

#endif
