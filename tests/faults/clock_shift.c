/* Preloaded into every process of a graph: the time of day is off by what a file says, in ns.

   A clock that is set while a graph runs cannot be had without setting the machine's. Deadlines in
   that time, which the kernel counts by its own clock, are given back what was added. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL
/* Seconds of a deadline that can only be a time of day; a monotonic clock counts from the boot. */
#define TIME_OF_DAY 1000000000LL

static const volatile int64_t *shared;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("VERA_TEST_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *found = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
  if (found != MAP_FAILED) shared = found;
  close(file);
}

static struct timespec moved(const struct timespec *t, int sign) {
  struct timespec result = *t;
  if (shared) {
    int64_t ns = (int64_t)t->tv_sec * NS + t->tv_nsec + sign * *shared;
    result.tv_sec = ns / NS;
    result.tv_nsec = ns % NS;
  }
  return result;
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int clock_gettime(clockid_t clock, struct timespec *t) {
  REAL(clock_gettime);
  int code = real(clock, t);
  if (!code && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) *t = moved(t, 1);
  return code;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
  struct timespec now;
  (void)zone;
  int code = clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec;
  t->tv_usec = now.tv_nsec / 1000;
  return code;
}

time_t time(time_t *t) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t) *t = now.tv_sec;
  return now.tv_sec;
}

static struct timespec given_back(const struct timespec *deadline) {
  return deadline->tv_sec > TIME_OF_DAY ? moved(deadline, -1) : *deadline;
}

int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m,
                           const struct timespec *restrict deadline) {
  REAL(pthread_cond_timedwait);
  struct timespec t = given_back(deadline);
  return real(c, m, &t);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict m, const struct timespec *restrict deadline) {
  REAL(pthread_mutex_timedlock);
  struct timespec t = given_back(deadline);
  return real(m, &t);
}

int sem_timedwait(sem_t *restrict s, const struct timespec *restrict deadline) {
  REAL(sem_timedwait);
  struct timespec t = given_back(deadline);
  return real(s, &t);
}
