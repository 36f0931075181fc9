/* measure REPORT COMMAND [ARGUMENT…]: runs a command and writes what it cost to the file REPORT, as key=value
 * words: the wall time from fork to exit, its CPU time, its context switches and its largest resident set.
 *
 * The shell's `time` rounds to 10 ms and forgets context switches, and the parent of a bench has other
 * children.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int64_t timeval_ns(struct timeval tv)
{
    return ((int64_t)tv.tv_sec * 1000000 + tv.tv_usec) * 1000;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: measure REPORT COMMAND [ARGUMENT...]\n");
        return 2;
    }
    int64_t begin = now_ns();
    pid_t pid = fork();
    if (pid < 0) {
        perror("measure: fork");
        return 1;
    }
    if (pid == 0) {
        execvp(argv[2], argv + 2);
        perror(argv[2]);
        _exit(127);
    }
    int status;
    struct rusage use;
    if (wait4(pid, &status, 0, &use) != pid) {
        perror("measure: wait4");
        return 1;
    }
    int64_t end = now_ns();
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);

    FILE *f = fopen(argv[1], "w");
    if (!f) {
        perror(argv[1]);
        return 1;
    }
    fprintf(f, "wall_ns=%lld cpu_ns=%lld voluntary=%ld involuntary=%ld maxrss_kib=%ld status=%d\n",
            (long long)(end - begin), (long long)(timeval_ns(use.ru_utime) + timeval_ns(use.ru_stime)),
            use.ru_nvcsw, use.ru_nivcsw, use.ru_maxrss, code);
    return fclose(f) == 0 ? code : 1;
}
