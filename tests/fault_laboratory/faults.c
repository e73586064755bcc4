/* A hand between a process and the machine: LD_PRELOADed, it notes every change of the files below one folder, refuses or
 * delays changes, ends the process before a change, and moves the wall's clock.
 *
 *   FAULTS_ROOT     the folder (real path); what lies outside is left alone
 *   FAULTS_CONTROL  a file of struct control, mapped and shared: whoever holds it turns the knobs while the process runs
 *   FAULTS_TRACE    optional: each change that succeeded is appended to it (struct record, path, other path, content)
 *
 * SQLite's -shm files are left out: they are shared memory that a new process builds anew. Needs no privilege, and works for
 * every program that calls the C library (Python and SQLite do). Not seen: writes through mmap, writev, sendfile. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, LINK, MAKE_DIRECTORY, REMOVE_DIRECTORY, NOTE };

struct control {
    int64_t clock_offset_ns; /* added to the wall's clock */
    int64_t changes;         /* counted: changes that were tried */
    int64_t fail_from, fail_until, fail_errno, fail_kinds; /* refuse changes numbered [from, until) of these kinds (bits) */
    int64_t failed;          /* counted: changes that were refused */
    int64_t kill_at;         /* SIGKILL before the change of this number; -1 never */
    int64_t delay_us;        /* before each fsync */
};

struct record { uint32_t kind, path, other, unused; uint64_t inode; int64_t offset; uint64_t length; };

#define MOST_DESCRIPTORS 4096
static struct control nothing = {.kill_at = -1};
static struct control *control = &nothing;
static char root[PATH_MAX];
static size_t root_length;
static int trace = -1;
static char tracked[MOST_DESCRIPTORS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("FAULTS_ROOT"), *shared = getenv("FAULTS_CONTROL"), *notes = getenv("FAULTS_TRACE");
    if (folder) root_length = strlen(strncpy(root, folder, sizeof root - 1));
    if (shared) {
        int fd = syscall(SYS_openat, AT_FDCWD, shared, O_RDWR | O_CLOEXEC, 0);
        void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd >= 0) syscall(SYS_close, fd);
        if (mapped != MAP_FAILED) control = mapped;
    }
    if (notes) {
        int low = syscall(SYS_openat, AT_FDCWD, notes, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        trace = low < 0 ? -1 : fcntl(low, F_DUPFD_CLOEXEC, 900); /* out of the way of whoever counts descriptors */
        if (low >= 0) syscall(SYS_close, low);
    }
}

static int is_ours(const char *path) {
    size_t length = strlen(path);
    if (!root_length || strncmp(path, root, root_length) || (path[root_length] != '/' && path[root_length])) return 0;
    return length < 4 || strcmp(path + length - 4, "-shm");
}

static const char *path_of(int fd, char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return path;
}

static const char *absolute(int folder, const char *path, char *whole) {
    char base[PATH_MAX];
    if (path[0] == '/') { snprintf(whole, PATH_MAX, "%s", path); return whole; }
    if (folder != AT_FDCWD) path_of(folder, base);
    else if (syscall(SYS_getcwd, base, sizeof base) < 0) base[0] = 0;
    if (snprintf(whole, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) whole[0] = 0;
    return whole;
}

static uint64_t inode_of(int fd) {
    struct stat seen;
    return fstat(fd, &seen) ? 0 : seen.st_ino;
}

static void tell(int kind, const char *path, const char *other, uint64_t inode, int64_t offset, const void *content, size_t length) {
    if (trace < 0) return;
    struct record head = {kind, strlen(path), strlen(other), 0, inode, offset, length};
    size_t carried = content ? length : 0;
    struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.path}, {(void *)other, head.other}, {(void *)content, carried}};
    syscall(SYS_writev, trace, parts, 4);
}

/* Counts a change that is about to be made; false where it is refused. The caller holds the lock. */
static int may(int kind) {
    int64_t number = __atomic_fetch_add(&control->changes, 1, __ATOMIC_SEQ_CST);
    if (number == control->kill_at) kill(getpid(), SIGKILL);
    if (kind == SYNC && control->delay_us) usleep(control->delay_us);
    if (number < control->fail_from || number >= control->fail_until || !(control->fail_kinds >> kind & 1)) return 1;
    __atomic_fetch_add(&control->failed, 1, __ATOMIC_SEQ_CST);
    errno = control->fail_errno;
    return 0;
}

#define LOCKED(...) do { pthread_mutex_lock(&lock); __VA_ARGS__; int kept = errno; pthread_mutex_unlock(&lock); errno = kept; } while (0)

void faults_note(const char *text, size_t length) { LOCKED(tell(NOTE, "", "", 0, 0, text, length)); }

static int opened(int folder, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX], real[PATH_MAX];
    if (!root_length || !is_ours(absolute(folder, path, whole)) || (flags & O_PATH)) {
        int fd = syscall(SYS_openat, folder, path, flags, mode);
        if (fd >= 0 && fd < MOST_DESCRIPTORS) tracked[fd] = 0;
        return fd;
    }
    int fd = -1;
    LOCKED({
        struct stat before;
        int was_there = !fstatat(folder, path, &before, 0), makes = (flags & O_CREAT) && !was_there;
        int empties = (flags & O_TRUNC) && was_there && before.st_size > 0;
        if (!(makes || empties) || may(makes ? CREATE : TRUNCATE)) fd = syscall(SYS_openat, folder, path, flags, mode);
        if (fd >= 0) {
            if (fd < MOST_DESCRIPTORS) tracked[fd] = is_ours(path_of(fd, real)); /* a link may lead out of the folder */
            if (makes) tell(CREATE, path_of(fd, real), "", inode_of(fd), 0, NULL, 0);
            if (empties) tell(TRUNCATE, path_of(fd, real), "", inode_of(fd), 0, NULL, 0);
        }
    });
    return fd;
}

#define MODE_OF(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
int open(const char *path, int flags, ...) { MODE_OF(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags) return opened(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE_OF(flags) return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE_OF(flags) return opened(folder, path, flags, mode); }

static int watched(int fd) { return fd >= 0 && fd < MOST_DESCRIPTORS && tracked[fd]; }

int close(int fd) {
    if (fd >= 0 && fd < MOST_DESCRIPTORS) tracked[fd] = 0;
    return syscall(SYS_close, fd);
}

static ssize_t written(int fd, const void *content, size_t length, off_t offset, int is_placed) {
    ssize_t done = -1;
    char path[PATH_MAX];
    LOCKED({
        if (may(WRITE)) {
            done = is_placed ? syscall(SYS_pwrite64, fd, content, length, offset) : syscall(SYS_write, fd, content, length);
            if (done > 0) {
                off_t at = is_placed ? offset : syscall(SYS_lseek, fd, 0, SEEK_CUR) - done;
                tell(WRITE, path_of(fd, path), "", inode_of(fd), at, content, done);
            }
        }
    });
    return done;
}

ssize_t write(int fd, const void *content, size_t length) {
    return watched(fd) ? written(fd, content, length, 0, 0) : syscall(SYS_write, fd, content, length);
}
ssize_t pwrite(int fd, const void *content, size_t length, off_t offset) {
    return watched(fd) ? written(fd, content, length, offset, 1) : syscall(SYS_pwrite64, fd, content, length, offset);
}
ssize_t pwrite64(int fd, const void *content, size_t length, off_t offset) { return pwrite(fd, content, length, offset); }

int ftruncate(int fd, off_t length) {
    int done = -1;
    char path[PATH_MAX];
    if (!watched(fd)) return syscall(SYS_ftruncate, fd, length);
    LOCKED({
        if (may(TRUNCATE) && !(done = syscall(SYS_ftruncate, fd, length)))
            tell(TRUNCATE, path_of(fd, path), "", inode_of(fd), length, NULL, 0);
    });
    return done;
}
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

static int synced(int fd, long call) {
    int done = -1;
    char path[PATH_MAX];
    if (!watched(fd)) return syscall(call, fd);
    LOCKED({ if (may(SYNC) && !(done = syscall(call, fd))) tell(SYNC, path_of(fd, path), "", inode_of(fd), 0, NULL, 0); });
    return done;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

static int moved(int kind, long call, int from, const char *old, int to, const char *new, int flags) {
    int done = -1;
    char old_path[PATH_MAX], new_path[PATH_MAX];
    absolute(from, old, old_path);
    absolute(to, new, new_path);
    if (!is_ours(old_path) && !is_ours(new_path)) return syscall(call, from, old, to, new, flags);
    LOCKED({ if (may(kind) && !(done = syscall(call, from, old, to, new, flags))) tell(kind, old_path, new_path, 0, 0, NULL, 0); });
    return done;
}
int renameat2(int from, const char *old, int to, const char *new, unsigned flags) { return moved(RENAME, SYS_renameat2, from, old, to, new, flags); }
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }
int linkat(int from, const char *old, int to, const char *new, int flags) { return moved(LINK, SYS_linkat, from, old, to, new, flags); }
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

static int named(int kind, long call, int folder, const char *path, long argument) {
    int done = -1;
    char whole[PATH_MAX];
    if (!is_ours(absolute(folder, path, whole))) return syscall(call, folder, path, argument);
    LOCKED({ if (may(kind) && !(done = syscall(call, folder, path, argument))) tell(kind, whole, "", 0, 0, NULL, 0); });
    return done;
}
int unlinkat(int folder, const char *path, int flags) { return named(flags & AT_REMOVEDIR ? REMOVE_DIRECTORY : UNLINK, SYS_unlinkat, folder, path, flags); }
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdirat(int folder, const char *path, mode_t mode) { return named(MAKE_DIRECTORY, SYS_mkdirat, folder, path, mode); }
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

static void shift(struct timespec *now) {
    int64_t ns = now->tv_sec * 1000000000LL + now->tv_nsec + control->clock_offset_ns;
    now->tv_sec = ns / 1000000000LL;
    now->tv_nsec = ns % 1000000000LL;
}
int clock_gettime(clockid_t which, struct timespec *now) {
    int done = syscall(SYS_clock_gettime, which, now);
    if (!done && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) shift(now);
    return done;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *into) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (into) *into = precise.tv_sec;
    return precise.tv_sec;
}
