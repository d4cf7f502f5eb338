/* Preloaded into a process, makes the FAULT_AT-th system call of saving a file fail with FAULT_ERRNO, or kills the
   process there if FAULT_ERRNO is 0. Once FAULT_AT is set, every call is counted and named on standard error. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int calls;

static int fails(const char *name) {
    const char *at = getenv("FAULT_AT");
    if (!at) {
        calls = 0;
        return 0;
    }
    calls++;
    dprintf(2, "%s\n", name);
    if (calls != atoi(at)) return 0;
    errno = atoi(getenv("FAULT_ERRNO"));
    if (!errno) kill(getpid(), SIGKILL);
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int opened(const char *symbol, const char *path, int flags, mode_t mode) {
    if (fails(flags & O_CREAT ? "create" : "open")) return -1;
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, symbol))(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened("open", path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened("open64", path, flags, mode);
}

ssize_t write(int file, const void *data, size_t size) { return fails("write") ? -1 : NEXT(write)(file, data, size); }
int fsync(int file) { return fails("fsync") ? -1 : NEXT(fsync)(file); }
int chmod(const char *path, mode_t mode) { return fails("chmod") ? -1 : NEXT(chmod)(path, mode); }
int rename(const char *from, const char *to) { return fails("rename") ? -1 : NEXT(rename)(from, to); }

int close(int file) {
    int bad = fails("close");
    int error = errno, result = NEXT(close)(file);
    if (!bad) return result;
    errno = error;
    return -1;
}
