/* Kills a process, or lets its disk fail, at an exact step: loaded with LD_PRELOAD in front of the C library.
 *
 * Only system calls have effects outside a process, so a process that can be killed before, within and after each call that
 * writes, sends, syncs or renames can be killed at every step that anybody could tell apart. The program under test needs no
 * code for it.
 *
 * BURSAR_FAULTS names a file, the plan, read anew at each such call: no file, no faults. New content begins a new count.
 *
 *     kill N before|half|after     SIGKILL at the Nth call; `half` lets a write or send hand over half of its bytes first
 *     kill-at CALL PATH N MOMENT   the same at the Nth call of this name on paths that contain PATH
 *     fail CALL PATH N ERRNO       that error from such calls, the first N of them; 0: all from now on
 *     watch                        nothing but the log
 *
 * CALL is `write` for all kinds of write, `send`, `sync`, `open` (when it creates), or another name as in the log. Each
 * counted call is one line `N CALL WHAT` in the file BURSAR_FAULTS.log; WHAT is a path, or `LOCAL>PEER` (ports) for a socket.
 *
 * BURSAR_CLOCK names a file with two numbers of seconds, read anew at each look at a clock: by how much time since the start,
 * which timers go by, and the time of day are ahead of the kernel's. No file: by nothing. What waits in the kernel wakes up as
 * late as without it.
 *
 * Standard input, output and error, pipes, event counters and local sockets are left alone.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#if !defined(__linux__) || !defined(__LP64__)
#error "for 64-bit Linux: offsets are passed to system calls in one register"
#endif

/* Wrapped functions are not called from here, so that nothing is counted twice. */
#define REAL(name, ...) syscall(SYS_##name, __VA_ARGS__)

enum fate { GO, FAIL, HALF, AFTER };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char plan[512];
static long counted, matched;

/* Whether there is a plan; starts over when it is another one. Called with the lock held. */
static int read_plan(void) {
    const char *path = getenv("BURSAR_FAULTS");
    char now[sizeof plan] = "";
    int fd = path ? REAL(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0) : -1;
    if (fd >= 0) {
        ssize_t n = REAL(read, fd, now, sizeof now - 1);
        now[n > 0 ? n : 0] = 0;
        REAL(close, fd);
    }
    if (strcmp(now, plan)) {
        strcpy(plan, now);
        counted = matched = 0;
    }
    return now[0] != 0;
}

static void log_call(const char *call, const char *what) {
    char path[PATH_MAX], line[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s.log", getenv("BURSAR_FAULTS"));
    int fd = REAL(openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return;
    int n = snprintf(line, sizeof line, "%ld %s %s\n", counted, call, what);
    REAL(write, fd, line, n);
    REAL(close, fd);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* What shall become of this call. */
static enum fate gate(const char *call, const char *what, int *error) {
    enum fate fate = GO;
    pthread_mutex_lock(&lock);
    if (read_plan()) {
        char name[32], path[256], moment[16];
        long n;
        int code, is_kill;
        counted++;
        log_call(call, what);
        is_kill = sscanf(plan, "kill %ld %15s", &n, moment) == 2 && n == counted;
        if (sscanf(plan, "kill-at %31s %255s %ld %15s", name, path, &n, moment) == 4 && !strcmp(name, call) && strstr(what, path))
            is_kill = ++matched == n;
        if (is_kill) {
            if (!strcmp(moment, "before")) die();
            fate = strcmp(moment, "half") ? AFTER : HALF;
        }
        if (sscanf(plan, "fail %31s %255s %ld %d", name, path, &n, &code) == 4 && !strcmp(name, call) && strstr(what, path) &&
            (n == 0 || ++matched <= n)) {
            *error = code;
            fate = FAIL;
        }
    }
    pthread_mutex_unlock(&lock);
    return fate;
}

/* A name for what a descriptor stands for; NULL for what this leaves alone. No locks: a signal handler may come here. */
static const char *name_of(int fd, char name[PATH_MAX]) {
    struct stat about;
    if (fd <= 2 || fstat(fd, &about)) return NULL;
    if (S_ISREG(about.st_mode) || S_ISDIR(about.st_mode)) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, name, PATH_MAX - 1);
        if (n < 0) return NULL;
        name[n] = 0;
        return name;
    }
    if (!S_ISSOCK(about.st_mode)) return NULL;
    struct sockaddr_storage local = {0}, peer = {0};
    socklen_t a = sizeof local, b = sizeof peer;
    if (getsockname(fd, (struct sockaddr *)&local, &a)) return NULL;
    if (local.ss_family != AF_INET && local.ss_family != AF_INET6) return NULL;
    getpeername(fd, (struct sockaddr *)&peer, &b);
    /* The port stands in the same place for both families. */
    snprintf(name, PATH_MAX, "%d>%d", ntohs(((struct sockaddr_in *)&local)->sin_port),
             ntohs(((struct sockaddr_in *)&peer)->sin_port));
    return name;
}

/* `half` and `full` are the call with half of its bytes and with all of them. */
#define STEP(call, what, half, full)            \
    do {                                        \
        int saved = errno, error = 0;           \
        enum fate fate = gate(call, what, &error); \
        if (fate == FAIL) {                     \
            errno = error;                      \
            return -1;                          \
        }                                       \
        errno = saved;                          \
        if (fate == HALF) {                     \
            half;                               \
            die();                              \
        }                                       \
        long done = full;                       \
        if (fate == AFTER) die();               \
        return done;                            \
    } while (0)

#define ON_FD(call, fd, half, full)             \
    do {                                        \
        char name[PATH_MAX];                    \
        int before = errno;                     \
        const char *what = name_of(fd, name);   \
        errno = before;                         \
        if (!what) return full;                 \
        STEP(call, what, half, full);           \
    } while (0)

ssize_t write(int fd, const void *bytes, size_t n) {
    ON_FD("write", fd, REAL(write, fd, bytes, n / 2), REAL(write, fd, bytes, n));
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at) {
    ON_FD("write", fd, REAL(pwrite64, fd, bytes, n / 2, at), REAL(pwrite64, fd, bytes, n, at));
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) { return pwrite64(fd, bytes, n, at); }

/* Half of a list of buffers: all of the first, or half of the only one. */
static void half_of(int fd, const struct iovec *parts, int n) {
    if (n > 0) REAL(write, fd, parts[0].iov_base, n > 1 ? parts[0].iov_len : parts[0].iov_len / 2);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    ON_FD("write", fd, half_of(fd, parts, n), REAL(writev, fd, parts, n));
}

ssize_t send(int fd, const void *bytes, size_t n, int flags) {
    ON_FD("send", fd, REAL(sendto, fd, bytes, n / 2, flags, NULL, 0), REAL(sendto, fd, bytes, n, flags, NULL, 0));
}

ssize_t sendto(int fd, const void *bytes, size_t n, int flags, const struct sockaddr *to, socklen_t len) {
    ON_FD("send", fd, REAL(sendto, fd, bytes, n / 2, flags, to, len), REAL(sendto, fd, bytes, n, flags, to, len));
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    ON_FD("send", fd, half_of(fd, message->msg_iov, message->msg_iovlen), REAL(sendmsg, fd, message, flags));
}

int connect(int fd, const struct sockaddr *to, socklen_t len) {
    if (to->sa_family != AF_INET && to->sa_family != AF_INET6) return REAL(connect, fd, to, len);
    char what[16];
    snprintf(what, sizeof what, "0>%d", ntohs(((const struct sockaddr_in *)to)->sin_port));
    STEP("connect", what, , REAL(connect, fd, to, len));
}

int fsync(int fd) { ON_FD("sync", fd, , REAL(fsync, fd)); }

int fdatasync(int fd) { ON_FD("sync", fd, , REAL(fdatasync, fd)); }

int sync_file_range(int fd, off_t from, off_t n, unsigned flags) {
    ON_FD("sync_file_range", fd, , REAL(sync_file_range, fd, from, n, flags));
}

int ftruncate64(int fd, off_t len) { ON_FD("truncate", fd, , REAL(ftruncate, fd, len)); }

int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }

static int open_at(int dir, const char *path, int flags, mode_t mode) {
    if (!(flags & (O_CREAT | O_TRUNC))) return REAL(openat, dir, path, flags, mode);
    STEP("open", path, , REAL(openat, dir, path, flags, mode));
}

#define MODE(flags)                             \
    mode_t mode = 0;                            \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {    \
        va_list rest;                           \
        va_start(rest, flags);                  \
        mode = va_arg(rest, mode_t);            \
        va_end(rest);                           \
    }

int open(const char *path, int flags, ...) {
    MODE(flags);
    return open_at(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags);
    return open_at(AT_FDCWD, path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...) {
    MODE(flags);
    return open_at(dir, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...) {
    MODE(flags);
    return open_at(dir, path, flags, mode);
}

int rename(const char *from, const char *to) {
    STEP("rename", to, , REAL(renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    STEP("link", to, , REAL(linkat, a, from, b, to, flags));
}

int unlink(const char *path) { STEP("unlink", path, , REAL(unlinkat, AT_FDCWD, path, 0)); }

int unlinkat(int dir, const char *path, int flags) { STEP("unlink", path, , REAL(unlinkat, dir, path, flags)); }

int mkdir(const char *path, mode_t mode) { STEP("mkdir", path, , REAL(mkdirat, AT_FDCWD, path, mode)); }

int clock_gettime(clockid_t id, struct timespec *now) {
    const char *path = getenv("BURSAR_CLOCK");
    long since_start = 0, of_day = 0;
    int failed = REAL(clock_gettime, id, now), before = errno;
    if (failed || !path) return failed;
    int fd = REAL(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd >= 0) {
        char text[64] = "";
        REAL(read, fd, text, sizeof text - 1);
        REAL(close, fd);
        sscanf(text, "%ld %ld", &since_start, &of_day);
    }
    if (id == CLOCK_MONOTONIC) now->tv_sec += since_start;
    if (id == CLOCK_REALTIME) now->tv_sec += of_day;
    errno = before;
    return 0;
}
