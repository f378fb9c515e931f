// A vector of float32, what activations are stored as, 2^x, and memory that a thread keeps.
//
// Two kinds of processor: with AVX512-BF16 a vector has 16 lanes and activations are bfloat16; with
// AVX2 it has 8 and they are float32. All that differs between them stands here and in gemm.h.
#pragma once
#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

using bf16 = uint16_t;

#ifdef __AVX512BF16__

using vec = __m512;  // + - * / work on it, and products that are added up are fused
using mask = __mmask16;
using elem = bf16;

inline vec set(float x) { return _mm512_set1_ps(x); }
inline vec most(vec a, vec b) { return _mm512_max_ps(a, b); }
inline vec least(vec a, vec b) { return _mm512_min_ps(a, b); }
inline vec root(vec x) { return _mm512_sqrt_ps(x); }
inline float sum_of(vec x) { return _mm512_reduce_add_ps(x); }
inline float most_of(vec x) { return _mm512_reduce_max_ps(x); }
inline vec only(mask m, vec x) { return _mm512_maskz_mov_ps(m, x); }
inline vec either(mask m, vec x, vec other) { return _mm512_mask_mov_ps(other, m, x); }
inline vec nearest(vec x) { return _mm512_roundscale_ps(x, 8); }
inline vec times_power(vec x, vec n) { return _mm512_scalef_ps(x, n); }  // x 2^n
inline vec inverse(vec x) {
  vec r = _mm512_rcp14_ps(x);
  return r * (2.f - x * r);  // one step of Newton's
}
inline vec inverse_stored(vec x) { return _mm512_rcp14_ps(x); }

inline vec widen(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
inline __m256i narrow(vec x) { return (__m256i)_mm512_cvtneps_pbh(x); }  // to nearest even
inline vec stored(vec x) { return widen(narrow(x)); }                   // as it comes back from memory

inline vec load(const float* p) { return _mm512_loadu_ps(p); }
inline vec load(const bf16* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }
inline void store(float* p, vec x) { _mm512_storeu_ps(p, x); }
inline void store(bf16* p, vec x) { _mm256_storeu_si256((__m256i*)p, narrow(x)); }

// The lanes of a mask only. Whole vectors go the plain way: masked stores are slow.
constexpr mask ALL = 0xffff;
inline vec load(const float* p, mask m) { return m == ALL ? load(p) : _mm512_maskz_loadu_ps(m, p); }
inline vec load(const bf16* p, mask m) {
  return m == ALL ? load(p) : widen(_mm256_maskz_loadu_epi16(m, p));
}
inline void store(float* p, vec x, mask m) { m == ALL ? store(p, x) : _mm512_mask_storeu_ps(p, m, x); }
inline void store(bf16* p, vec x, mask m) {
  m == ALL ? store(p, x) : _mm256_mask_storeu_epi16(p, m, narrow(x));
}

#else

using vec = __m256;
using mask = uint8_t;
using elem = float;

inline vec set(float x) { return _mm256_set1_ps(x); }
inline vec most(vec a, vec b) { return _mm256_max_ps(a, b); }
inline vec least(vec a, vec b) { return _mm256_min_ps(a, b); }
inline vec root(vec x) { return _mm256_sqrt_ps(x); }
inline float sum_of(vec x) {
  return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7]));
}
inline float most_of(vec x) {
  return std::max(std::max(std::max(x[0], x[4]), std::max(x[1], x[5])),
                  std::max(std::max(x[2], x[6]), std::max(x[3], x[7])));
}
inline __m256i lanes(mask m) {
  __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(m), bits), bits);
}
inline vec only(mask m, vec x) { return _mm256_and_ps(_mm256_castsi256_ps(lanes(m)), x); }
inline vec either(mask m, vec x, vec other) {
  return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(lanes(m)));
}
inline vec nearest(vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline vec times_power(vec x, vec n) {  // n from -126 to 127
  __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return x * _mm256_castsi256_ps(power);
}
inline vec inverse(vec x) { return 1.f / x; }
inline vec inverse_stored(vec x) { return inverse(x); }
inline vec stored(vec x) { return x; }

inline vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, vec x) { _mm256_storeu_ps(p, x); }
constexpr mask ALL = 0xff;
inline vec load(const float* p, mask m) { return m == ALL ? load(p) : _mm256_maskload_ps(p, lanes(m)); }
inline void store(float* p, vec x, mask m) {
  m == ALL ? store(p, x) : _mm256_maskstore_ps(p, lanes(m), x);
}

#endif

constexpr long LANES = sizeof(vec) / sizeof(float);

// The first n lanes.
inline mask first(long n) { return n >= LANES ? ALL : n <= 0 ? 0 : (1u << n) - 1; }

// Memory of a thread, kept from call to call: slot says which of its buffers.
template <class T>
T* scratch(int slot, size_t count) {
  struct Buffer {
    void* data = nullptr;
    size_t bytes = 0;
    ~Buffer() { free(data); }
  };
  thread_local Buffer buffers[16];
  Buffer& b = buffers[slot];
  size_t bytes = (count * sizeof(T) + 4096) / 4096 * 4096;
  if (b.bytes < bytes) {
    free(b.data);
    b.data = aligned_alloc(4096, bytes);
    b.bytes = bytes;
  }
  return (T*)b.data;
}

constexpr float LOG2E = 1.4426950408889634f;

// Small enough beside 1. What is no normal number takes Intel's processors a hundred times as long, and
// products of this and a weight still are.
constexpr float LEAST_POWER = -100.f;

// 2^x, relative error below 3e-7; 2^-100 for anything smaller.
inline vec exp2(vec x) {
  x = most(set(LEAST_POWER), x);  // in this order what is no number stays none
  vec n = nearest(x), f = x - n;
  vec p = set(1.5403530e-4f);
  for (float c : {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.f})
    p = p * f + c;
  return times_power(p, n);
}

// For what is then stored, as inverse_stored: beside bfloat16's rounding, 4e-3, an error of 8e-5.
inline vec exp2_stored(vec x) {
#ifdef __AVX512BF16__
  x = most(set(LEAST_POWER), x);
  vec n = nearest(x), f = x - n;
  return times_power(((f * 0.05517167f + 0.24261114f) * f + 0.69326099f) * f + 0.99992807f, n);
#else
  return exp2(x);
#endif
}
