#define T float
#define I int
#define LANES 16
#define K 16
#define VECTORS (K / LANES)
#define POINTS 64
#define ROWS 64
#define UNITS 256
#define FEW (1024 / (K * 4))
typedef T V __attribute__((vector_size(64)));
typedef I W __attribute__((vector_size(64)));
typedef double Q __attribute__((vector_size(8 * LANES)));
typedef T U __attribute__((vector_size(64), aligned(4), may_alias));

static inline V greater(V a, V b) {  /* of two, or b where either is nan */
    const W more = a > b;
    return (V)(((W)a & more) | ((W)b & ~more));
}

static inline V power(V x) {  /* exp(x) for x <= 0: 2^n times a Taylor polynomial of what is left, |r| <= log(2) / 2 */
    x = greater(x, (V){0} + (T)-87);
    const V n = (x * (T)1.4426950408889634 + (T)12582912.0) - (T)12582912.0;
    const V r = (x - n * (T)0.693115234375) - n * (T)3.194618494528623e-05;
    V value = (V){0} + (T)0.0001984126984126984;
    value = value * r + (T)0.001388888888888889; value = value * r + (T)0.008333333333333333; value = value * r + (T)0.041666666666666664; value = value * r + (T)0.16666666666666666; value = value * r + (T)0.5; value = value * r + (T)1.0; value = value * r + (T)1.0;
    return value * (V)((__builtin_convertvector(n, W) + 127) << 23);
}

/* Of units that come in with a + m b, at whole m: where each has flipped, counted from 0 where m is -center (POINTS: nowhere), and the sign
   of what that does; the units that flip, and those active at m = 0. */
static inline void events(int units, I center, I many, const T* a, const T* b, T* sign, I* place, int* turning, int* turns, int* active,
                          int* actives) {
    #pragma GCC ivdep
    for (int j = 0; j < units; j++) {
        const T way = __builtin_fabsf(a[j] / b[j]), near = way < POINTS ? way : POINTS;
        const I on = a[j] > 0, rises = b[j] > 0, steps = (I)near + 1, k = on ^ rises ? center + steps : center - steps;
        sign[j] = on ? -1 : 1;
        place[j] = (k >= 0) & (k < many) ? k : POINTS;
    }
    int flip = 0, on = 0;
    for (int j = 0; j < units; j++) turning[flip] = j, flip += place[j] < POINTS;
    for (int j = 0; active && j < units; j++) active[on] = j, on += a[j] > 0;
    *turns = flip, *actives = on;
}

/* What a unit adds to the six sums that a line begins with: with 1, m and m^2 where both factors vary by line, then 1 and m, then 1. */
static inline void begin(V to[6][VECTORS], T a, T aside, T along, const T* weight, const T* shift, const T* slope) {
    for (int v = 0; v < VECTORS; v++) {
        const V w = ((const U*)weight)[v], u = ((const U*)shift)[v], d = ((const U*)slope)[v];
        to[0][v] += a * w, to[1][v] += a * u + aside * w, to[2][v] += aside * u;
        to[3][v] += a * d + along * w, to[4][v] += aside * d + along * u, to[5][v] += along * d;
    }
}

/* sums, products: of a block of rows at each point, so that its loss is sums + log(products). starts, weights, offsets: at the pivots;
   alongs, slopes, drifts: from a point to the next; asides, shifts, sways: from a line to the next; tables: weights of every line */
void run(long rows, long units, long classes, long points, long lines, long pivot, long middle, const T* starts, const T* alongs,
         const T* asides, const T* tables, const T* slopes, const T* shifts, const T* offsets, const T* drifts, const T* sways,
         const long long* labels, double* sums, double* products) {
    #pragma omp parallel for schedule(dynamic)
    for (long block = 0; block < (rows + ROWS - 1) / ROWS; block++) {
      const long stop = (block + 1) * ROWS < rows ? (block + 1) * ROWS : rows;
      double *sums_here = sums + block * lines * points, *products_here = products + block * lines * points;
      for (long k = 0; k < lines * points; k++) sums_here[k] = 0, products_here[k] = 1;
      V flips[POINTS][3][VECTORS] __attribute__((aligned(64))), turned_lines[POINTS][6][VECTORS] __attribute__((aligned(64)));
      V begins[POINTS][FEW][3][VECTORS] __attribute__((aligned(64)));
      T scores[POINTS][K] __attribute__((aligned(64))), turned[K][LANES] __attribute__((aligned(64)));
      T came[UNITS] __attribute__((aligned(64))), sign[UNITS] __attribute__((aligned(64)));
      I place[UNITS] __attribute__((aligned(64)));
      int active[UNITS], turning[UNITS], actives, turns;
      __builtin_memset(flips, 0, sizeof flips);
      __builtin_memset(turned_lines, 0, sizeof turned_lines);
      __builtin_memset(scores, 0, sizeof scores);
      for (long front = block * ROWS; front < stop; front += FEW) {
        const long last = front + FEW < stop ? front + FEW : stop;
        for (long row = front; row < last; row++) {
            V at[6][VECTORS];
            for (int v = 0; v < VECTORS; v++) {
                at[0][v] = ((const U*)offsets)[v], at[1][v] = ((const U*)sways)[v], at[3][v] = ((const U*)drifts)[v];
                at[2][v] = at[4][v] = at[5][v] = (V){0};
            }
            for (long first = 0; first < units; first += UNITS) {
                const int here = units - first < UNITS ? units - first : UNITS;
                const T *a = starts + row * units + first, *u = asides + row * units + first, *b = alongs + row * units + first;
                const T *w = tables + (middle * units + first) * K, *t = shifts + first * K, *d = slopes + first * K;
                events(here, middle, lines, a, u, sign, place, turning, &turns, active, &actives);
                for (int i = 0; i < actives; i++) {
                    const int j = active[i];
                    begin(at, a[j], u[j], b[j], w + j * K, t + j * K, d + j * K);
                }
                for (int i = 0; i < turns; i++) {
                    const int j = turning[i];
                    begin(turned_lines[place[j]], sign[j] * a[j], sign[j] * u[j], sign[j] * b[j], w + j * K, t + j * K, d + j * K);
                }
            }
            for (int way = -1; way <= 1; way += 2)
                for (int v = 0; v < VECTORS; v++) {
                    V c[6];
                    for (int i = 0; i < 6; i++) c[i] = at[i][v];
                    for (long k = middle; k >= 0 && k < lines; k += way) {
                        const T m = k - middle;
                        for (int i = 0; i < 6; i++) c[i] += turned_lines[k][i][v], turned_lines[k][i][v] = (V){0};
                        begins[k][row - front][0][v] = c[0] + m * (c[1] + m * c[2]);
                        begins[k][row - front][1][v] = c[3] + m * c[4];
                        begins[k][row - front][2][v] = c[5];
                    }
                }
        }
        for (long line = 0; line < lines; line++) {
            Q sum[POINTS / LANES], product[POINTS / LANES];
            for (long k = 0; k < POINTS / LANES; k++) sum[k] = (Q){0}, product[k] = (Q){0} + 1;
            const T m = line - middle;
            for (long row = front; row < last; row++) {
                V(*at)[VECTORS] = begins[line][row - front];
                for (long first = 0; first < units; first += UNITS) {
                    const int here = units - first < UNITS ? units - first : UNITS;
                    const T *a = starts + row * units + first, *u = asides + row * units + first, *b = alongs + row * units + first;
                    const T *w = tables + (line * units + first) * K, *d = slopes + first * K;
                    for (int j = 0; j < here; j++) came[j] = a[j] + m * u[j];
                    events(here, pivot, points, came, b, sign, place, turning, &turns, 0, &actives);
                    for (int i = 0; i < turns; i++) {
                        const int j = turning[i];
                        const T a = sign[j] * came[j], s = sign[j] * b[j];
                        const U *wj = (const U*)(w + j * K), *dj = (const U*)(d + j * K);
                        V(*to)[VECTORS] = flips[place[j]];
                        for (int v = 0; v < VECTORS; v++)
                            to[0][v] += a * wj[v], to[1][v] += a * dj[v] + s * wj[v], to[2][v] += s * dj[v];
                    }
                }
                for (int way = -1; way <= 1; way += 2)
                    for (int v = 0; v < VECTORS; v++) {
                        V c0 = at[0][v], c1 = at[1][v], c2 = at[2][v];
                        for (long k = pivot; k >= 0 && k < points; k += way) {
                            c0 += flips[k][0][v], c1 += flips[k][1][v], c2 += flips[k][2][v];
                            flips[k][0][v] = flips[k][1][v] = flips[k][2][v] = (V){0};
                            ((V*)scores[k])[v] = c0 + (T)(k - pivot) * (c1 + (T)(k - pivot) * c2);
                        }
                    }
                const long y = labels[row];
                for (long k = 0; k < points; k += LANES) {
                    for (long c = 0; c < K; c++)
                        for (long l = 0; l < LANES; l++) turned[c][l] = scores[k + l][c];
                    const V own = *(V*)turned[y];
                    V most = (V){0}, rest = (V){0};
                    for (long c = 0; c < classes; c++) most = greater(*(V*)turned[c] - own, most);
                    for (long i = 1, c = y; i < classes; i++) {
                        c = c + 1 < classes ? c + 1 : 0;
                        rest += power(*(V*)turned[c] - own - most);
                    }
                    const V first = power(-most);
                    sum[k / LANES] += __builtin_convertvector(most, Q);  /* in double, where 1 + a small rest keeps it */
                    product[k / LANES] *= __builtin_convertvector(first, Q) + __builtin_convertvector(rest, Q);
                }
            }
            for (long k = 0; k < points; k++) {
                sums_here[line * points + k] += sum[k / LANES][k % LANES];
                products_here[line * points + k] *= product[k / LANES][k % LANES];
            }
        }
      }
    }
}
