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
  return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
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

// sums (32, 32) = or += `count` cells of A times a panel's; of the first sixteen rows, or of all.
inline void multiply_tiles(Rows rows, bool both, const cell* panel, long count, float* sums, bool add) {
  constexpr long LINE = PANEL * sizeof(float);
  asm volatile("" ::: "memory");  // GCC does not know that tiles are loaded from what was just packed
  if (add) {
    _tile_loadd(0, sums, LINE);
    _tile_loadd(1, sums + TILE, LINE);
    if (both) _tile_loadd(2, sums + TILE * PANEL, LINE);
    if (both) _tile_loadd(3, sums + TILE * PANEL + TILE, LINE);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const cell* a = rows.a;
  long row = rows.row * sizeof(cell);
  for (long k = 0; k < count; k += TILE, a += rows.step, panel += TILE * PANEL) {
    _tile_loadd(4, a, row);
    _tile_loadd(6, panel, LINE);
    _tile_loadd(7, panel + TILE, LINE);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (both) {
      _tile_loadd(5, a + rows.second, row);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, LINE);
  _tile_stored(1, sums + TILE, LINE);
  if (both) _tile_stored(2, sums + TILE * PANEL, LINE);
  if (both) _tile_stored(3, sums + TILE * PANEL + TILE, LINE);
}

// n rows of A, at most 32, against panels lying side by side.
template <class Out>
void tiles_by_panels(Rows rows, long n, const cell* panels, long count, long depth, long i0, const Out& out) {
  float* all = scratch<float>(10, (depth > CHUNK ? count : 1) * UNIT * PANEL);
  for (long k = 0; k < depth; k += CHUNK, rows.a += CHUNK / TILE * rows.step)
    for (long p = 0; p < count; p++) {
      float* sums = depth > CHUNK ? all + p * UNIT * PANEL : all;
      multiply_tiles(rows, n > TILE, panels + (p * depth + k) * PANEL, std::min(CHUNK, depth - k), sums, k > 0);
      if (k + CHUNK < depth) continue;
      for (long i = 0; i < n; i++)
        for (long j = 0; j < PANEL; j += LANES) out(i0 + i, p * PANEL + j, load(sums + i * PANEL + j));
    }
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
