#include "loop.h"
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <errno.h>
#include <unistd.h>
int abk_loop_open(abk_loop *l){ *l = (abk_loop){.armed = ABK_NEVER}; l->fd = epoll_create1(EPOLL_CLOEXEC); l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK|TFD_CLOEXEC); struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}; return epoll_ctl(l->fd, EPOLL_CTL_ADD, l->timer_fd, &e) < 0 ? ABK_ESYS : 0; }
void abk_loop_close(abk_loop *l){ if (l->fd >= 0) close(l->fd); if (l->timer_fd >= 0) close(l->timer_fd); l->fd = l->timer_fd = -1; }
int abk_loop_watch(abk_loop *l, abk_watch *w, uint8_t interest){ if (l->fd < 0 || w->interest == interest) return 0; struct epoll_event e = {.events = (interest & ABK_READ ? EPOLLIN : 0u) | (interest & ABK_WRITE ? EPOLLOUT : 0u), .data.ptr = w}; int op = interest == 0 ? EPOLL_CTL_DEL : w->interest == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD; int r = epoll_ctl(l->fd, op, w->fd, &e); w->interest = interest; return r < 0 ? ABK_ESYS : 0; }
int abk_loop_watch_exit(abk_loop *l, abk_watch *w, pid_t p){ (void)p; return abk_loop_watch(l, w, ABK_READ); }
int abk_loop_arm(abk_loop *l, uint64_t d){ if (d >= l->armed) return 0; l->armed = d; struct itimerspec s = {.it_value = {(time_t)(d/ABK_S), (long)(d%ABK_S)}}; if (d == 0) s.it_value.tv_nsec = 1; return timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &s, NULL); }
int abk_loop_wait(abk_loop *l, abk_ready *r, int max, int ms){ struct epoll_event e[ABK_BATCH]; int n = epoll_wait(l->fd, e, max, ms); if (n < 0) return errno == EINTR ? 0 : ABK_ESYS; int k = 0; for (int i = 0; i < n; i++) { if (!e[i].data.ptr) { uint64_t x; (void)!read(l->timer_fd, &x, 8); l->armed = ABK_NEVER; continue; } uint32_t v = e[i].events; uint8_t w = (uint8_t)((v & EPOLLIN ? ABK_READ : 0) | (v & EPOLLOUT ? ABK_WRITE : 0) | (v & (EPOLLHUP|EPOLLERR) ? ABK_READ|ABK_WRITE : 0)); r[k++] = (abk_ready){e[i].data.ptr, w}; } return k; }
