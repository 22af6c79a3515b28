/* Preloaded, lets the n-th call that writes below a directory fail, over all threads: write, fsync, rename, mkdir, and
   an open that makes a file. See benchmarks/errors.py.

   cc -shared -fPIC -O2 -o faults.so faults.c -ldl
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct faults {
  atomic_long calls; /* so far */
  long fails;        /* the number of the call that fails; 0 for none */
  int error;         /* what it sets errno to */
  char directory[PATH_MAX];
  char failed[PATH_MAX]; /* what failed: the call and the path */
};

static struct faults *faults; /* in memory that the process which reads it shares; none at first */

void faults_begin(struct faults *shared) { faults = shared; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int below(const char *path) {
  size_t length = strlen(faults->directory);
  return !strncmp(path, faults->directory, length) && (path[length] == '/' || !path[length]);
}

static int counts(const char *call, const char *path) {
  if (!below(path)) return 0;
  if (atomic_fetch_add(&faults->calls, 1) + 1 != faults->fails) return 0;
  snprintf(faults->failed, sizeof faults->failed, "%s %.3900s", call, path);
  errno = faults->error;
  return 1;
}

static int fails_path(const char *call, int folder, const char *path) {
  char given[PATH_MAX], parent[PATH_MAX], real[2 * PATH_MAX], link[64];
  if (!faults || !path) return 0;
  int kept = errno;
  if (path[0] == '/') {
    snprintf(given, sizeof given, "%s", path);
  } else {
    if (folder == AT_FDCWD) {
      if (!getcwd(parent, sizeof parent)) return 0;
    } else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
      ssize_t n = readlink(link, parent, sizeof parent - 1);
      if (n < 0) return 0;
      parent[n] = 0;
    }
    snprintf(given, sizeof given, "%.2000s/%.2000s", parent, path);
  }
  char *name = strrchr(given, '/');
  *name++ = 0;
  if (!realpath(*given ? given : "/", parent)) {
    errno = kept;
    return 0;
  }
  snprintf(real, sizeof real, "%s/%s", parent, name);
  errno = kept;
  return counts(call, real);
}

static int fails_fd(const char *call, int fd) {
  char link[64], path[PATH_MAX];
  if (!faults) return 0;
  int kept = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  errno = kept;
  if (n < 0) return 0;
  path[n] = 0;
  return counts(call, path);
}

ssize_t write(int fd, const void *data, size_t n) { return fails_fd("write", fd) ? -1 : REAL(write)(fd, data, n); }
ssize_t writev(int fd, const struct iovec *v, int n) { return fails_fd("write", fd) ? -1 : REAL(writev)(fd, v, n); }
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
  return fails_fd("write", fd) ? -1 : REAL(pwrite)(fd, data, n, at);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
  return fails_fd("write", fd) ? -1 : REAL(pwrite64)(fd, data, n, at);
}
int fsync(int fd) { return fails_fd("fsync", fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return fails_fd("fsync", fd) ? -1 : REAL(fdatasync)(fd); }
int rename(const char *old, const char *new) { return fails_path("rename", AT_FDCWD, new) ? -1 : REAL(rename)(old, new); }
int renameat(int a, const char *old, int b, const char *new) {
  return fails_path("rename", b, new) ? -1 : REAL(renameat)(a, old, b, new);
}
int mkdir(const char *path, mode_t mode) { return fails_path("mkdir", AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) {
  return fails_path("mkdir", folder, path) ? -1 : REAL(mkdirat)(folder, path, mode);
}

#define OPEN(name, call)                                                                  \
  int name(const char *path, int flags, ...) {                                            \
    va_list list;                                                                         \
    va_start(list, flags);                                                                \
    mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;                             \
    va_end(list);                                                                         \
    return flags & O_CREAT && fails_path("open", AT_FDCWD, path) ? -1 : call(path, flags, mode); \
  }
OPEN(open, REAL(open))
OPEN(open64, REAL(open64))

#define OPENAT(name, call)                                                                \
  int name(int folder, const char *path, int flags, ...) {                                \
    va_list list;                                                                         \
    va_start(list, flags);                                                                \
    mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;                             \
    va_end(list);                                                                         \
    return flags & O_CREAT && fails_path("open", folder, path) ? -1 : call(folder, path, flags, mode); \
  }
OPENAT(openat, REAL(openat))
OPENAT(openat64, REAL(openat64))

/* A stream's buffer goes to the disk by a write inside the C library, which cannot be seen: streams, as TensorFlow's,
   get a write of ours. */
static ssize_t stream_write(void *fd, const char *data, size_t n) {
  size_t done = 0;
  while (done < n) {
    ssize_t wrote = write((int)(long)fd, data + done, n - done);
    if (wrote < 0) return done;
    done += wrote;
  }
  return done;
}
static ssize_t stream_read(void *fd, char *data, size_t n) { return read((int)(long)fd, data, n); }
static int stream_seek(void *fd, off64_t *at, int whence) {
  off64_t moved = lseek64((int)(long)fd, *at, whence);
  if (moved < 0) return -1;
  *at = moved;
  return 0;
}
static int stream_close(void *fd) { return close((int)(long)fd); }

static FILE *stream(const char *path, const char *mode, FILE *(*real)(const char *, const char *)) {
  if (!faults || !strpbrk(mode, "wa")) return real(path, mode);
  int flags = (strchr(mode, '+') ? O_RDWR : O_WRONLY) | O_CREAT | O_CLOEXEC | (*mode == 'w' ? O_TRUNC : O_APPEND);
  int fd = open(path, flags, 0666);
  if (fd < 0) return NULL;
  cookie_io_functions_t calls = {stream_read, stream_write, stream_seek, stream_close};
  return fopencookie((void *)(long)fd, mode, calls);
}
FILE *fopen(const char *path, const char *mode) { return stream(path, mode, REAL(fopen)); }
FILE *fopen64(const char *path, const char *mode) { return stream(path, mode, REAL(fopen64)); }
