// Matrix products with float32 sums, of bfloat16 operands on AMX and AVX512-BF16, of float32 ones on AVX2.
//
// B is packed in panels of some columns. A cell is what the processor multiplies at once of a column:
// two rows of bfloat16 as a pair, one row of float32. Weights stay float32 in memory and become
// cells while they are packed, so no second copy of a model is ever held. A panel lies in the
// second-level cache while all rows of A pass by. What becomes of the sums (bias, GELU, residual)
// is a functor that gets them in registers. amx.h has the innermost products of processors with AMX.
#pragma once
#include "vectors.h"

#include <type_traits>
#include <vector>

// VECTORS: of a panel. CACHE: bytes of panels in the second-level cache. UNIT: rows that threads share out.
// DEPTH: a panel has a multiple of it as cells. RUN: lines written one after another, as what is packed
// lies powers of two apart. STRIP: rows of a packed transposed A; STRIPS: so many are packed together.
// UNROLL: cells of a sum without a jump between them.
#ifdef __AVX512BF16__

using cell = uint32_t;  // two bfloat16
constexpr long STRIP = 16, STRIPS = 2, UNROLL = 1;
constexpr cell ONES = 0x3f803f80;
constexpr long CACHE = 640 * 1024;
#ifdef __AMX_BF16__
constexpr const char* KIND = "bfloat16 on AMX";
constexpr long VECTORS = 2, UNIT = 32, DEPTH = 16, RUN = 16;
#else
constexpr const char* KIND = "bfloat16 on AVX512";
constexpr long VECTORS = 4, UNIT = 48, DEPTH = 1, RUN = 8;
#endif

// The lanes of PER rows as cells: row 0 in the low halves.
inline vec merged(const vec* rows) {
  __m512i l = _mm512_cvtepu16_epi32(narrow(rows[0])), h = _mm512_cvtepu16_epi32(narrow(rows[1]));
  return (vec)_mm512_or_si512(l, _mm512_slli_epi32(h, 16));
}

// The same of rows that are stored as what is multiplied.
inline vec merged(const bf16* low, const bf16* high, mask l_lanes, mask h_lanes) {
  __m512i l = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(l_lanes, low));
  __m512i h = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(h_lanes, high));
  return (vec)_mm512_or_si512(l, _mm512_slli_epi32(h, 16));
}

// A vector of cells of a row; `some` says how many are there.
inline vec cells_of(const bf16* p, mask some) { return (vec)_mm512_maskz_loadu_epi32(some, p); }
inline vec cells_of(const float* p, mask some) {
  __mmask32 wide = _pdep_u32(some, 0x55555555u) * 3u;  // each pair is two values
  __m512 a = _mm512_maskz_loadu_ps((__mmask16)wide, p);
  __m512 b = _mm512_maskz_loadu_ps((__mmask16)(wide >> 16), p + 16);
  return (vec)_mm512_cvtne2ps_pbh(b, a);
}

inline vec load_cells(const cell* p) { return _mm512_load_ps(p); }
inline void store_cells(cell* p, vec x) { _mm512_storeu_ps(p, x); }
inline vec everywhere(cell x) { return (vec)_mm512_set1_epi32(x); }
inline vec dot(vec sum, vec a, vec b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

inline void transpose(vec* block) {  // 16 x 16
  __m512i *r = (__m512i*)block, t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

#else

using cell = float;
constexpr cell ONES = 1;
constexpr long CACHE = 256 * 1024;
constexpr const char* KIND = "float32 on AVX2";
constexpr long VECTORS = 2, UNIT = 48, DEPTH = 1, RUN = 8, STRIP = 24, STRIPS = 4, UNROLL = 4;

inline vec merged(const vec* rows) { return rows[0]; }
inline vec cells_of(const float* p, mask some) { return load(p, some); }
inline vec load_cells(const cell* p) { return _mm256_load_ps(p); }
inline void store_cells(cell* p, vec x) { _mm256_storeu_ps(p, x); }
inline vec everywhere(cell x) { return set(x); }
inline vec dot(vec sum, vec a, vec b) { return _mm256_fmadd_ps(a, b, sum); }

inline void transpose(vec* r) {  // 8 x 8
  vec t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      r[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      r[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    vec low = r[i], high = r[i + 4];
    r[i] = _mm256_permute2f128_ps(low, high, 0x20);
    r[i + 4] = _mm256_permute2f128_ps(low, high, 0x31);
  }
}

#endif

constexpr long PER = sizeof(cell) / sizeof(elem);  // rows of B in a cell
constexpr long PANEL = VECTORS * LANES;            // columns of a panel

// Cells of a column of k values, zero past the last value.
inline long cells(long k) { return (k + PER * DEPTH - 1) / (PER * DEPTH) * DEPTH; }

struct Same {  // what is packed as it is
  vec operator()(vec x, long) const { return x; }
};

// f(value, its vector's column) of PER rows from row r of the k of src on, as cells; zero past the last.
template <class T, class F>
inline vec rows_of(const T* src, long ld, long r, long k, long j, mask m, F f) {
  if constexpr (std::is_same_v<T, bf16> && std::is_same_v<F, Same>)
    if (r < k) return merged(src + r * ld + j, src + (r + 1) * ld + j, m, r + 1 < k ? m : mask(0));
  vec rows[PER];
  for (long h = 0; h < PER; h++)
    rows[h] = r + h < k ? only(m, f(load(src + (r + h) * ld + j, m), j)) : set(0);
  return merged(rows);
}

// Panels side by side = the n columns of src (k, n), each value through f.
template <class T, class F = Same>
void pack_rows(const T* src, long ld, long k, long n, cell* panels, F f = F()) {
  long count = cells(k), all = (n + PANEL - 1) / PANEL * PANEL;
  for (long start = 0; start < count; start += RUN)
    for (long j = 0; j < all; j += LANES) {
      cell* to = panels + j / PANEL * count * PANEL + j % PANEL;
      for (long r = start; r < std::min(count, start + RUN); r++)
        store_cells(to + r * PANEL, j < n ? rows_of(src, ld, PER * r, k, j, first(n - j), f) : set(0));
    }
}

// Panels side by side = the n rows of src (n, k), k a multiple of PER, as columns; zero up to `all`.
template <class T>
void pack_columns(const T* src, long ld, long k, long n, cell* panels, long all = 0) {
  long count = cells(k);
  all = (std::max(n, all) + PANEL - 1) / PANEL * PANEL;
  for (long j = 0; j < all; j += LANES) {
    cell* to = panels + j / PANEL * count * PANEL + j % PANEL;
    for (long c = 0; c < count; c += LANES) {
      vec block[LANES];
      mask some = first(k / PER - c);
      for (long i = 0; i < LANES; i++)
        block[i] = j + i < n ? cells_of(src + (j + i) * ld + PER * c, some) : set(0);
      transpose(block);
      for (long i = 0; i < std::min(LANES, count - c); i++) store_cells(to + (c + i) * PANEL, block[i]);
    }
  }
}

// Strips `from` .. `to` of src (k, m) transposed, as [m / STRIP][cells of k][STRIP] (for AMX as [16][16
// cells] time and again): the A of a product whose sum runs over the rows of src. Adds the columns of src up,
// if asked.
inline void pack_strips(const elem* src, long ld, long k, long m, long from, long to, cell* strips,
                        float* sums) {
  long count = cells(k);
  for (long start = 0; start < count; start += RUN)
    for (long b = from; b < to; b++)
      for (long j = b * STRIP; j < (b + 1) * STRIP; j += LANES) {
        mask some = first(m - j);
        vec sum = set(0), lines[RUN];
        long n = std::min(RUN, count - start);
        for (long r = 0; r < n; r++) {
          lines[r] = rows_of(src, ld, PER * (start + r), k, j, some, Same());
          sum = dot(sum, lines[r], everywhere(ONES));
        }
        if constexpr (DEPTH > 1) transpose(lines);
        for (long r = 0; r < n; r++)
          store_cells(strips + (b * count + start + r) * STRIP + j % STRIP, lines[r]);
        if (sums && j < m) store(sums + j, load(sums + j, some) + sum, some);
      }
}

// Sums that go into memory as they are, or are added to what is there; of so many columns.
struct Into {
  float* c;
  long ld, columns;
  bool add;
  void operator()(long i, long j, vec x) const {
    float* to = c + i * ld + j;
    mask some = first(columns - j);
    store(to, add ? x + load(to, some) : x, some);
  }
};

// out() with its columns counted from panel p on.
template <class Out>
auto shifted(const Out& out, long p) {
  return [&out, p](long i, long j, vec c) { out(i, p * PANEL + j, c); };
}

#ifdef __AMX_BF16__
#include "amx.h"
#else

inline bool allowed() { return true; }
struct Multiplier {};  // what a thread needs while it multiplies

// R rows of A against a panel; a[i * row + k * step] is the cell k of row i.
template <int R, class Out>
inline __attribute__((always_inline)) void tile(const cell* a, long row, long step, const cell* panel,
                                                long count, long i0, const Out& out) {
  vec c[R][VECTORS];
  for (int i = 0; i < R; i++)
    for (int j = 0; j < VECTORS; j++) c[i][j] = set(0);
#pragma GCC unroll UNROLL
  for (long k = 0; k < count; k++) {
    vec b[VECTORS];
    for (int j = 0; j < VECTORS; j++) b[j] = load_cells(panel + k * PANEL + LANES * j);
    for (int i = 0; i < R; i++) {
      vec x = everywhere(a[i * row + k * step]);
      for (int j = 0; j < VECTORS; j++) c[i][j] = dot(c[i][j], x, b[j]);
    }
  }
  for (int i = 0; i < R; i++)
    for (int j = 0; j < VECTORS; j++) out(i0 + i, LANES * j, c[i][j]);
}

// Rows from .. to of a row-major A (`ld` values a row) against panels of k values lying side by side.
template <class Out>
void rows_by_panels(const elem* a, long ld, long from, long to, const cell* panels, long count, long k,
                    const Out& out) {
  const cell* rows = (const cell*)a;
  long row = ld / PER, depth = cells(k), i = from;
  auto pass = [&](auto tiled) {
    for (long p = 0; p < count; p++) tiled(rows + i * row, panels + p * depth * PANEL, shifted(out, p));
  };
  for (; i + 6 <= to; i += 6)
    pass([&](auto a, auto b, auto o) { tile<6>(a, row, 1, b, depth, i, o); });
  for (; i + 4 <= to; i += 4)
    pass([&](auto a, auto b, auto o) { tile<4>(a, row, 1, b, depth, i, o); });
  for (; i < to; i++) pass([&](auto a, auto b, auto o) { tile<1>(a, row, 1, b, depth, i, o); });
}

// The same for strips; `from` is a multiple of STRIP.
template <class Out>
void strips_by_panels(const cell* strips, long from, long to, const cell* panels, long count, long depth,
                      const Out& out) {
  for (long i = from; i < to; i += STRIP)
    for (long p = 0; p < count; p++) {
      const cell *a = strips + i / STRIP * depth * STRIP, *b = panels + p * depth * PANEL;
      auto o = shifted(out, p);
      long r = i, end = std::min(to, i + STRIP);
      for (; r + 6 <= end; r += 6) tile<6>(a + (r - i), 1, STRIP, b, depth, r, o);
      for (; r + 4 <= end; r += 4) tile<4>(a + (r - i), 1, STRIP, b, depth, r, o);
      for (; r < end; r++) tile<1>(a + (r - i), 1, STRIP, b, depth, r, o);
    }
}

#endif

// For the n columns of B, as many panels at a time as the second-level cache holds, so that A is read
// once for all of them: pack(first column, columns, buffer), then multiply(first column, panels, first
// row, last row, buffer) for some rows at a time. Each thread begins with its own panels; one that is done
// takes rows from others, as cores are not equally fast (neighbours on the host, small cores). Who does
// what changes no number.
template <class Pack, class Multiply>
void for_panels(long m, long n, long depth, Pack pack, Multiply multiply) {
  constexpr long UNITS = 4;  // taken at a time
  constexpr long WORTH = 3;  // so often there must be some left, or another's panels are not packed again
  long panels = (n + PANEL - 1) / PANEL, threads = omp_get_max_threads(), units = (m + UNIT - 1) / UNIT;
  long fitting = std::max(1L, CACHE / (depth * PANEL * (long)sizeof(cell)));
  long needed = (panels + fitting - 1) / fitting;
  long groups = std::min(panels, (needed + threads - 1) / threads * threads);
  long cuts = (units + UNITS - 1) / UNITS;
  std::vector<long> taken(groups);
#pragma omp parallel
  {
    Multiplier here;
    cell* buffer = scratch<cell>(1, depth * PANEL * ((panels + groups - 1) / groups));
    long own = groups * omp_get_thread_num() / omp_get_num_threads();
    long own_end = groups * (omp_get_thread_num() + 1) / omp_get_num_threads();
    for (long s = 0; s < groups; s++) {
      long g = (own + s) % groups, begin = panels * g / groups, count = panels * (g + 1) / groups - begin;
      for (bool packed = false;; packed = true) {
        long c;
        if (!packed && own + s >= own_end) {
#pragma omp atomic read
          c = taken[g];
          if (c + WORTH > cuts) break;
        }
#pragma omp atomic capture
        c = taken[g]++;
        if (c >= cuts) break;
        long column = begin * PANEL, from = units * c / cuts * UNIT, to = units * (c + 1) / cuts * UNIT;
        if (!packed) pack(column, std::min(n - column, count * PANEL), buffer);
        multiply(column, count, from, std::min(m, to), buffer);
      }
    }
  }
}
