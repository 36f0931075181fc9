/* The limit that sequential calls are compared with: 32 bytes of UDP there and back between two processes,
 * each sleeping in epoll_wait between datagrams, no encryption, no protocol.
 *
 *   pingpong server PORT                 answers until it is killed
 *   pingpong client PORT SECONDS [PID]   prints key=value words; PID: the server's, to read its CPU time
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PAYLOAD = 32, MAX_SAMPLES = 4000000 };

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* Nanoseconds of CPU that another process has used; 0 when unknown. */
static int64_t process_cpu_ns(const char *pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/schedstat", pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    long long ns = 0;
    if (fscanf(f, "%lld", &ns) != 1)
        ns = 0;
    fclose(f);
    return ns;
}

static int64_t own_cpu_ns(long *switches)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    *switches = u.ru_nvcsw;
    return ((int64_t)u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000 +
           ((int64_t)u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

static int open_socket(uint16_t port, int *epfd)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0)
        die("bind");
    *epfd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
    if (*epfd < 0 || epoll_ctl(*epfd, EPOLL_CTL_ADD, fd, &ev) < 0)
        die("epoll");
    return fd;
}

static ssize_t wait_datagram(int fd, int epfd, char *buf, size_t n, struct sockaddr_in *from)
{
    struct epoll_event ev;
    for (;;) {
        if (epoll_wait(epfd, &ev, 1, 5000) < 0 && errno != EINTR)
            die("epoll_wait");
        socklen_t len = sizeof *from;
        ssize_t got = recvfrom(fd, buf, n, 0, (struct sockaddr *)from, &len);
        if (got >= 0)
            return got;
        if (errno != EAGAIN && errno != EINTR)
            die("recvfrom");
    }
}

static void serve(uint16_t port)
{
    int epfd, fd = open_socket(port, &epfd);
    char buf[2048];
    for (;;) {
        struct sockaddr_in from;
        ssize_t n = wait_datagram(fd, epfd, buf, sizeof buf, &from);
        if (sendto(fd, buf, (size_t)n, 0, (struct sockaddr *)&from, sizeof from) < 0)
            die("sendto");
    }
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void ask(uint16_t port, double seconds, const char *pid)
{
    int epfd, fd = open_socket(0, &epfd);
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint32_t *samples = malloc(MAX_SAMPLES * sizeof *samples);
    if (!samples)
        die("malloc");
    char out[PAYLOAD] = {0}, in[2048];
    int64_t begin = now_ns(), end = begin + (int64_t)(seconds * 1e9), t = begin;
    long sw0, sw1;
    int64_t cpu0 = own_cpu_ns(&sw0), peer0 = process_cpu_ns(pid);
    uint64_t calls = 0;
    while (t < end) {
        struct sockaddr_in from;
        memcpy(out, &calls, sizeof calls);
        if (sendto(fd, out, sizeof out, 0, (struct sockaddr *)&to, sizeof to) < 0)
            die("sendto");
        ssize_t n = wait_datagram(fd, epfd, in, sizeof in, &from);
        if (n != PAYLOAD || memcmp(in, out, PAYLOAD) != 0) {
            fprintf(stderr, "pingpong: wrong answer\n");
            exit(1);
        }
        int64_t u = now_ns();
        if (calls < MAX_SAMPLES)
            samples[calls] = (uint32_t)(u - t);
        t = u;
        calls++;
    }
    int64_t cpu1 = own_cpu_ns(&sw1), peer1 = process_cpu_ns(pid);
    uint64_t kept = calls < MAX_SAMPLES ? calls : MAX_SAMPLES;
    qsort(samples, kept, sizeof *samples, compare);
    printf("calls=%llu wall_ns=%lld cpu_ns=%lld server_cpu_ns=%lld voluntary=%ld p50_ns=%u p99_ns=%u\n",
           (unsigned long long)calls, (long long)(t - begin), (long long)(cpu1 - cpu0),
           (long long)(peer1 - peer0), sw1 - sw0, samples[kept / 2], samples[kept * 99 / 100]);
    free(samples);
}

int main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "server") == 0)
        serve((uint16_t)atoi(argv[2]));
    if (argc >= 4 && strcmp(argv[1], "client") == 0) {
        ask((uint16_t)atoi(argv[2]), atof(argv[3]), argc > 4 ? argv[4] : "0");
        return 0;
    }
    fprintf(stderr, "usage: pingpong server PORT | pingpong client PORT SECONDS [SERVER_PID]\n");
    return 2;
}
