// Newton-Schulz steps of Muon for many matrices, each on one thread; modules/training/optim.py has
// the plain twin and the coefficients' source.
#include "gemm.h"

namespace {

constexpr bool GRAM = std::is_same_v<elem, float>;

// out(i, j, sum, mask) of a (m, k) times n columns that pack(first, count, panels) brings, as many panels
// at a time as the cache holds; of a symmetric product only the upper triangle, by whole panels.
template <class Pack, class Out>
void multiply(const elem* a, long m, long n, long k, bool symmetric, Pack pack, Out out) {
  long panel = cells(k) * PANEL, together = std::max(1L, CACHE / (panel * (long)sizeof(cell))) * PANEL;
  cell* panels = scratch<cell>(1, together / PANEL * panel);
  for (long p = 0; p < n; p += together) {
    long columns = std::min(together, n - p);
    pack(p, columns, panels);
    for (long i = 0; i < m; i += PANEL) {
      long past = symmetric ? std::max(0L, i - p) : 0;
      if (past >= columns) break;
      rows_by_panels(a, k, i, std::min(m, i + PANEL), panels + past / PANEL * panel,
                     (columns - past + PANEL - 1) / PANEL, k, [=](long row, long j, vec c) {
                       long column = p + past + j;
                       if (column < n) out(row, column, c, first(n - column));
                     });
    }
  }
}

// to (cols, rows) = scale * from (rows, cols) transposed
template <class T, class U>
void turn(const T* from, long ld, long rows, long cols, U* to, long to_ld, float scale = 1.f) {
  for (long i = 0; i < rows; i += LANES)
    for (long j = 0; j < cols; j += LANES) {
      vec block[LANES];
      for (long l = 0; l < LANES; l++)
        block[l] = i + l < rows ? load(from + (i + l) * ld + j, first(cols - j)) * scale : set(0);
      transpose(block);
      for (long l = 0; l < std::min(LANES, cols - j); l++)
        store(to + (j + l) * to_ld + i, block[l], first(rows - i));
    }
}

void mirror(elem* x, long n) {
  for (long i = 0; i + PANEL < n; i += PANEL)
    turn(x + i * n + i + PANEL, n, PANEL, n - i - PANEL, x + (i + PANEL) * n + i, n);
}

// gram (rows, rows) = x x' of x (rows, cols).
void gram_of(const elem* x, long rows, long cols, elem* gram) {
  auto pack = [=](long p, long n, cell* to) { pack_columns(x + p * cols, cols, cols, n, to); };
  multiply(x, rows, rows, cols, true, pack, [=](long i, long j, vec v, mask m) {
    store(gram + i * rows + j, v, m);
  });
  mirror(gram, rows);
}

// out (n, n) = scale * x y + add * x of symmetric matrices whose product is symmetric.
void symmetric(const elem* x, const elem* y, elem* out, long n, float scale, float add) {
  auto pack = [=](long p, long count, cell* to) { pack_columns(y + p * n, n, n, count, to); };
  multiply(x, n, n, n, true, pack, [=](long i, long j, vec v, mask m) {
    store(out + i * n + j, scale * v + add * load(x + i * n + j, m), m);
  });
  mirror(out, n);
}

// out (rows, cols) = mixed x + a x, of mixed (rows, rows).
void apply(const elem* mixed, const elem* x, elem* out, long rows, long cols, float a) {
  auto pack = [=](long p, long n, cell* to) { pack_rows(x + p, cols, rows, n, to); };
  multiply(mixed, rows, cols, rows, false, pack, [=](long i, long j, vec v, mask m) {
    store(out + i * cols + j, a * load(x + i * cols + j, m) + v, m);
  });
}

// next (rows, cols) = a x + (b x x' + c (x x')^2) x, rows <= cols.
void iterate(const elem* x, elem* next, long rows, long cols, const float* abc) {
  elem *gram = scratch<elem>(4, rows * rows), *mixed = scratch<elem>(5, rows * rows);
  gram_of(x, rows, cols, gram);
  symmetric(gram, gram, mixed, rows, abc[2], abc[1]);
  apply(mixed, x, next, rows, cols, abc[0]);
}

// next = x after all the steps, which only the Gram matrix takes: with P = a I + b G + c G^2, G becomes
// P^2 G, and the product of all P is what x is multiplied by. Half of the work at cols = 4 rows. Float32
// only: bfloat16's rounding of G is as large as the squares of the singular values that are to grow.
void iterate_gram(const elem* x, elem* next, long rows, long cols, long steps, const float* abc) {
  elem* m[5];
  for (int i = 0; i < 5; i++) m[i] = scratch<elem>(4 + i, rows * rows);
  elem *gram = m[0], *p = m[1], *all = m[2], *other = m[3], *more = m[4];
  gram_of(x, rows, cols, gram);
  for (long s = 0; s < steps; s++) {
    symmetric(gram, gram, p, rows, abc[2], abc[1]);
    for (long i = 0; i < rows; i++) p[i * rows + i] += abc[0];
    if (s) symmetric(p, all, other, rows, 1, 0);
    std::swap(all, s ? other : p);
    if (s == steps - 1) break;
    const elem* last = s ? p : all;
    symmetric(last, gram, more, rows, 1, 0);
    symmetric(last, more, gram, rows, 1, 0);
  }
  apply(all, x, next, rows, cols, 0);
}

void orthogonal_one(const float* update, float* out, long rows, long cols, long steps, const float* abc) {
  bool tall = rows > cols;
  long r = std::min(rows, cols), c = std::max(rows, cols);
  elem *x = scratch<elem>(2, r * c), *next = scratch<elem>(3, r * c);
  double squares = 0;
  for (long i = 0; i < rows; i++) {
    vec sum = set(0);
    for (long j = 0; j < cols; j += LANES) {
      vec v = load(update + i * cols + j, first(cols - j));
      sum += v * v;
    }
    squares += sum_of(sum);
  }
  float scale = 1.f / std::max((float)std::sqrt(squares), 1e-7f);  // spectral norm at most 1
  if (tall) turn(update, cols, rows, cols, x, c, scale);
  for (long i = 0; i < (tall ? 0 : r); i++)
    for (long j = 0; j < c; j += LANES)
      store(x + i * c + j, load(update + i * c + j, first(c - j)) * scale, first(c - j));
  if (GRAM && c > r && steps) {
    iterate_gram(x, next, r, c, steps, abc);
    std::swap(x, next);
  } else {
    for (long s = 0; s < steps; s++, std::swap(x, next)) iterate(x, next, r, c, abc);
  }
  if (tall) turn(x, c, r, c, out, cols);
  for (long i = 0; i < (tall ? 0 : r * c); i += LANES) {
    mask some = first(r * c - i);
    store(out + i, load(x + i, some), some);
  }
}

}  // namespace

extern "C" void orthogonal(long count, const float* const* updates, float* const* out, const long* rows,
                           const long* cols, long steps, const float* coefficients) {
#pragma omp parallel for schedule(dynamic)
  for (long i = 0; i < count; i++) {
    Multiplier here;
    orthogonal_one(updates[i], out[i], rows[i], cols[i], steps, coefficients);
  }
}
