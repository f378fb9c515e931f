// The innermost products of gemm.h on AMX: tiles of 16 rows of 16 cells or sums, eight to a core.
//
// Four tiles hold the sums of 32 rows and 32 columns, two hold A, two hold a panel. Every row goes this
// way, the last few as well, so that its numbers do not depend on how many there are beside it.
#pragma once
#include <sys/syscall.h>
#include <unistd.h>

static_assert(PANEL == 32 && DEPTH == 16 && UNIT == 32 && STRIP == 16, "what the tiles hold");

constexpr long TILE = 16;
constexpr long CHUNK = 192;  // cells of A's 32 rows that lie in the first-level cache for all panels

// Ask the system for tiles, once for all threads of this process and its forks; false: it has none.
inline bool allowed() {
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool answer = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
  return answer;
}

struct Layout {  // of the eight tiles, as the processor reads it
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};  // of a row
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr Layout EIGHT;  // in memory for good: GCC takes it that only its first bytes are read

// The tiles of a thread, as long as it multiplies.
struct Multiplier {
  Multiplier() { _tile_loadconfig(&EIGHT); }
  ~Multiplier() { _tile_release(); }
};

// Where rows of A are for the tiles: row by row, TILE cells at a time, and the second sixteen rows.
struct Rows {
  const cell* a;
  long row, step, second;
};

// Sums (32, 32) that go to out(row, column, vector) while the next ones are made.
template <class Out>
struct Leaving {
  const Out& out;
  const float* sums = nullptr;
  long row0 = 0, column = 0, row = 0, rows = 0;
  void begin(const float* from, long at_row, long at_column, long count) {
    sums = from, row0 = at_row, column = at_column, row = 0, rows = count;
  }
  inline __attribute__((always_inline)) void step(long count) {
    for (long end = std::min(rows, row + count); row < end; row++)
      for (long j = 0; j < PANEL; j += LANES) out(row0 + row, column + j, load(sums + row * PANEL + j));
  }
};

struct Place {  // of 32 x 32 sums; none: zeros
  float* sums = nullptr;
  long ld = 0;
  float* at(long i, long j) const { return sums + i * TILE * ld + j * TILE; }
};

// to = from + `count` cells of A times a panel's; of the first sixteen rows, or of all.
template <class Out>
inline void multiply_tiles(Rows rows, bool both, const cell* panel, long count, Place from, Place to,
                           Leaving<Out>& leaving) {
  asm volatile("" ::: "memory");  // GCC does not know that tiles are loaded from what was just packed
  if (from.sums) {
    long line = from.ld * sizeof(float);
    _tile_loadd(0, from.at(0, 0), line);
    _tile_loadd(1, from.at(0, 1), line);
    if (both) _tile_loadd(2, from.at(1, 0), line);
    if (both) _tile_loadd(3, from.at(1, 1), line);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const cell* a = rows.a;
  long row = rows.row * sizeof(cell), share = (leaving.rows * TILE + count - 1) / count;
  for (long k = 0; k < count; k += TILE, a += rows.step, panel += TILE * PANEL) {
    _tile_loadd(4, a, row);
    _tile_loadd(6, panel, PANEL * sizeof(cell));
    _tile_loadd(7, panel + TILE, PANEL * sizeof(cell));
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (both) {
      _tile_loadd(5, a + rows.second, row);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    leaving.step(share);
  }
  long line = to.ld * sizeof(float);
  _tile_stored(0, to.at(0, 0), line);
  _tile_stored(1, to.at(0, 1), line);
  if (both) _tile_stored(2, to.at(1, 0), line);
  if (both) _tile_stored(3, to.at(1, 1), line);
}

// n rows of A, at most 32, against panels lying side by side. Sums that only go into memory do so from
// tiles, others by way of a buffer.
template <class Out>
void tiles_by_panels(Rows rows, long n, const cell* panels, long count, long depth, long i0, const Out& out) {
  float* buffers = scratch<float>(10, std::max(2L, count) * UNIT * PANEL);
  Leaving<Out> leaving{out};
  for (long k = 0; k < depth; k += CHUNK, rows.a += CHUNK / TILE * rows.step)
    for (long p = 0; p < count; p++) {
      Place buffer{buffers + (depth > CHUNK ? p : p % 2) * UNIT * PANEL, PANEL}, memory;
      bool added = false, last = k + CHUNK >= depth;
      if constexpr (std::is_same_v<Out, Into>) {
        bool whole = n % TILE == 0 && (p + 1) * PANEL <= out.columns;
        if (whole) memory = {out.c + i0 * out.ld + p * PANEL, out.ld};
        added = whole && out.add;
      }
      Place from = k ? buffer : added ? memory : Place{}, to = last && memory.sums ? memory : buffer;
      multiply_tiles(rows, n > TILE, panels + (p * depth + k) * PANEL, std::min(CHUNK, depth - k), from, to,
                     leaving);
      leaving.begin(to.sums, i0, p * PANEL, last && !memory.sums ? n : 0);
    }
  leaving.step(n);
}

// Rows from .. to of a row-major A (`ld` values a row) against panels of k values lying side by side.
template <class Out>
void rows_by_panels(const elem* a, long ld, long from, long to, const cell* panels, long count, long k,
                    const Out& out) {
  long depth = cells(k);
  for (long i = from; i < to; i += UNIT) {
    long n = std::min(UNIT, to - i);
    Rows rows{(const cell*)(a + i * ld), ld / PER, TILE, TILE * ld / PER};
    if (n % TILE || depth * PER != k) {  // tiles would read past the rows: zeros there
      elem* whole = scratch<elem>(11, UNIT * depth * PER);
      memset(whole, 0, UNIT * depth * PER * sizeof(elem));
      for (long r = 0; r < n; r++) memcpy(whole + r * depth * PER, a + (i + r) * ld, k * sizeof(elem));
      rows = {(const cell*)whole, depth, TILE, TILE * depth};
    }
    tiles_by_panels(rows, n, panels, count, depth, i, out);
  }
}

// The same for strips; `from` is a multiple of STRIP.
template <class Out>
void strips_by_panels(const cell* strips, long from, long to, const cell* panels, long count, long depth,
                      const Out& out) {
  for (long i = from; i < to; i += UNIT) {
    Rows rows{strips + i * depth, STRIP, TILE * STRIP, STRIP * depth};
    tiles_by_panels(rows, std::min(UNIT, to - i), panels, count, depth, i, out);
  }
}
