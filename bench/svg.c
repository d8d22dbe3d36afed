// SPDX-License-Identifier: BSD-2-Clause
// A comparison as a drawing: one panel for streams, one for round trips, both axes logarithmic.
//
// The drawing brings its colours for light and dark surroundings and its own background. Series differ by marker as
// well as by colour; whiskers show the lowest and the highest run.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "compare.h"
#include "units.h"

#define WIDTH  840
#define LEFT   92
#define RIGHT  24
#define HEADER 92
#define PANEL  330 // plot area
#define TITLE  34  // above it
#define FOOTER 62  // below it

struct panel {
	const struct compare *c;
	FILE *to;
	enum metric metric;
	double top;	       // of the plot area
	double x0, x1, y0, y1; // log2 of sizes, log10 of values
};

// Plain colours rather than CSS variables, which few viewers but browsers know.
static const char style[] =
    "<style>\n"
    "text{font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2328}\n"
    ".bg{fill:#ffffff} .dim{fill:#59636e} .title{font-weight:600;font-size:15px} .end{text-anchor:end} "
    ".mid{text-anchor:middle}\n"
    ".grid{stroke:#d8dee4;stroke-width:1} .axis{stroke:#59636e;stroke-width:1}\n"
    ".tcp{stroke:#c2410c;color:#c2410c} .veth{stroke:#b7791f;color:#b7791f} .unix{stroke:#0f7b55;color:#0f7b55}\n"
    ".ring{stroke:#6e7781;color:#6e7781} .librlm{stroke:#0550ae;color:#0550ae}\n"
    ".line{fill:none;stroke-width:2} .line.librlm{stroke-width:3} .line.ring{stroke-dasharray:6 4}\n"
    ".mark{fill:currentColor;stroke:#ffffff;stroke-width:1} .whisker{stroke-width:1.5}\n"
    "@media (prefers-color-scheme:dark){\n"
    "text{fill:#e6edf3} .bg{fill:#0d1117} .dim{fill:#9198a1} .grid{stroke:#2f3742} .axis{stroke:#9198a1}\n"
    ".tcp{stroke:#ff9257;color:#ff9257} .veth{stroke:#e8b44a;color:#e8b44a} .unix{stroke:#4cc38a;color:#4cc38a}\n"
    ".ring{stroke:#9aa4af;color:#9aa4af} .librlm{stroke:#6cb6ff;color:#6cb6ff} .mark{stroke:#0d1117}}\n"
    "</style>\n";

static void escape(FILE *to, const char *text)
{
	for (; *text; text++) {
		switch (*text) {
		case '&':
			fputs("&amp;", to);
			break;
		case '<':
			fputs("&lt;", to);
			break;
		default:
			fputc(*text, to);
		}
	}
}

static double at_x(const struct panel *p, double size)
{
	double span = p->x1 > p->x0 ? p->x1 - p->x0 : 1;

	return LEFT + 20 + (log2(size) - p->x0) / span * (WIDTH - LEFT - RIGHT - 40);
}

static double at_y(const struct panel *p, double value)
{
	return p->top + PANEL - (log10(value) - p->y0) / (p->y1 - p->y0) * PANEL;
}

static void mark(FILE *to, enum column_id column, double x, double y)
{
	const char *name = compare_columns[column].name;

	switch (column) {
	case COL_TCP:
		fprintf(to, "<circle class='mark %s' cx='%.1f' cy='%.1f' r='4.5'/>\n", name, x, y);
		break;
	case COL_VETH:
		fprintf(to, "<rect class='mark %s' x='%.1f' y='%.1f' width='8.5' height='8.5'/>\n", name, x - 4.25,
			y - 4.25);
		break;
	case COL_UNIX:
		fprintf(to, "<path class='mark %s' d='M%.1f %.1fl5 9h-10z'/>\n", name, x, y - 5.5);
		break;
	case COL_RING:
		fprintf(to, "<path class='mark %s' d='M%.1f %.1fl5.5 5.5l-5.5 5.5l-5.5 -5.5z'/>\n", name, x, y - 5.5);
		break;
	default:
		fprintf(to, "<circle class='mark %s' cx='%.1f' cy='%.1f' r='5.5'/>\n", name, x, y);
	}
}

static const struct cell *drawn(const struct panel *p, unsigned row, enum column_id column)
{
	const struct cell *cell = &p->c->cells[row][column];

	return p->c->preset->rows[row].metric == p->metric && cell->good && cell->low > 0 ? cell : NULL;
}

// What the axes must hold. false: nothing to draw.
static bool panel_range(struct panel *p)
{
	double low = INFINITY, high = 0, small = INFINITY, large = 0;

	for (unsigned r = 0; r < p->c->row_count; r++) {
		for (int k = 0; k < COL_COUNT; k++) {
			const struct cell *cell = drawn(p, r, (enum column_id)k);
			double size = (double)p->c->preset->rows[r].size;

			if (!cell)
				continue;
			low = fmin(low, cell->low);
			high = fmax(high, cell->high);
			small = fmin(small, size);
			large = fmax(large, size);
		}
	}
	if (high <= 0)
		return false;
	p->x0 = log2(small);
	p->x1 = log2(large);
	p->y0 = floor(log10(low) * 4 - 0.2) / 4; // quarters of a decade keep the lines off the frame
	p->y1 = ceil(log10(high) * 4 + 0.2) / 4;
	return true;
}

static const char *value_label(const struct panel *p, double v, char *text)
{
	static const char *const rates[] = {"", "k", "M", "G", "T"};
	static const char *const times[] = {"ns", "\u00b5s", "ms", "s"};
	bool time = p->metric == METRIC_TIME;
	unsigned i = 0;

	if (p->c->preset->bytes)
		v *= 8;
	while (v >= 999.5 && i < (time ? 3 : 4)) {
		v /= 1000;
		i++;
	}
	if (time)
		snprintf(text, UNITS_TEXT, "%.3g %s", v, times[i]);
	else
		snprintf(text, UNITS_TEXT, "%.3g %s%s", v, rates[i], p->c->preset->bytes ? "b/s" : "B/s");
	return text;
}

static void draw_y_axis(const struct panel *p)
{
	static const double steps[] = {1, 2, 5};
	double bits = p->c->preset->bytes ? 8 : 1; // round numbers in the unit shown
	char text[UNITS_TEXT];

	for (int decade = (int)floor(p->y0); decade <= (int)ceil(p->y1) + 1; decade++) {
		for (int i = 0; i < 3; i++) {
			double v = steps[i] * pow(10, decade) / bits;
			double l = log10(v);

			if (l < p->y0 || l > p->y1 || (p->y1 - p->y0 > 3 && i > 0))
				continue;
			fprintf(p->to, "<line class='grid' x1='%d' y1='%.1f' x2='%d' y2='%.1f'/>\n", LEFT, at_y(p, v),
				WIDTH - RIGHT, at_y(p, v));
			fprintf(p->to, "<text class='dim end' x='%d' y='%.1f'>%s</text>\n", LEFT - 8, at_y(p, v) + 4.5,
				value_label(p, v, text));
		}
	}
}

static void draw_x_axis(const struct panel *p)
{
	double bottom = p->top + PANEL;
	char text[UNITS_TEXT];

	for (unsigned r = 0; r < p->c->row_count; r++) {
		const struct row *row = &p->c->preset->rows[r];
		double x = at_x(p, (double)row->size);

		if (row->metric != p->metric)
			continue;
		fprintf(p->to, "<line class='axis' x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f'/>\n", x, bottom, x,
			bottom + 5);
		fprintf(p->to, "<text class='dim mid' x='%.1f' y='%.1f'>%s</text>\n", x, bottom + 20,
			units_size(text, row->size));
	}
	fprintf(p->to, "<line class='axis' x1='%d' y1='%.1f' x2='%d' y2='%.1f'/>\n", LEFT, bottom, WIDTH - RIGHT,
		bottom);
	fprintf(p->to, "<text class='mid' x='%d' y='%.1f'>message size</text>\n", (LEFT + WIDTH - RIGHT) / 2,
		bottom + 42);
}

static void draw_column(const struct panel *p, enum column_id column)
{
	const char *name = compare_columns[column].name;
	char move = 'M';

	fprintf(p->to, "<path class='line %s' d='", name);
	for (unsigned r = 0; r < p->c->row_count; r++) {
		const struct cell *cell = drawn(p, r, column);

		if (!cell)
			continue;
		fprintf(p->to, "%c%.1f %.1f", move, at_x(p, (double)p->c->preset->rows[r].size), at_y(p, cell->median));
		move = 'L';
	}
	fputs("'/>\n", p->to);
	for (unsigned r = 0; r < p->c->row_count; r++) {
		const struct cell *cell = drawn(p, r, column);
		double x = at_x(p, (double)p->c->preset->rows[r].size);

		if (!cell)
			continue;
		fprintf(p->to, "<line class='whisker %s' x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f'/>\n", name, x,
			at_y(p, cell->low), x, at_y(p, cell->high));
		mark(p->to, column, x, at_y(p, cell->median));
	}
}

static void draw_panel(const struct panel *p)
{
	static const char *const titles[METRIC_COUNT] = {
	    [METRIC_BANDWIDTH] = "Stream, bandwidth (higher is better)",
	    [METRIC_TIME] = "Round trip, median (lower is better)",
	    [METRIC_RATE] = "Transactions (higher is better)",
	};

	fprintf(p->to, "<text class='title' x='%d' y='%.1f'>%s</text>\n", LEFT, p->top - 14, titles[p->metric]);
	draw_y_axis(p);
	draw_x_axis(p);
	for (int k = 0; k < COL_COUNT; k++)
		if (compare_has(p->c, (enum column_id)k))
			draw_column(p, (enum column_id)k);
}

static void draw_header(const struct compare *c, FILE *to)
{
	double x = LEFT;

	fprintf(to, "<text class='title' x='%d' y='28'>rlm-bench compare: ", LEFT);
	escape(to, c->preset->title);
	fprintf(to, "</text>\n<text class='dim' x='%d' y='48'>", LEFT);
	escape(to, c->model);
	fprintf(to, "; medians of %u interleaved runs, whiskers: lowest and highest</text>\n", c->options->runs);
	for (int k = 0; k < COL_COUNT; k++) {
		const struct column *column = &compare_columns[k];

		if (!compare_has(c, (enum column_id)k))
			continue;
		fprintf(to, "<path class='line %s' d='M%.1f 72h28'/>\n", column->name, x);
		mark(to, (enum column_id)k, x + 14, 72);
		fprintf(to, "<text x='%.1f' y='76.5'>%s</text>\n", x + 36, column->title);
		x += 60 + 7.6 * (double)strlen(column->title);
	}
}

int svg_write(const struct compare *c, FILE *to)
{
	struct panel panels[METRIC_COUNT];
	unsigned n = 0;
	int height = HEADER;

	for (int m = 0; m < METRIC_COUNT; m++) {
		struct panel p = {.c = c, .to = to, .metric = (enum metric)m, .top = height + TITLE};

		if (!panel_range(&p))
			continue;
		panels[n++] = p;
		height += TITLE + PANEL + FOOTER;
	}
	if (n == 0) {
		errno = ENODATA;
		return -ENODATA;
	}
	fprintf(to, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' width='%d' height='%d' role='img'>\n",
		WIDTH, height, WIDTH, height);
	fprintf(to, "<title>rlm-bench compare, preset %s</title>\n%s", c->preset->name, style);
	fputs("<rect class='bg' width='100%' height='100%'/>\n", to);
	draw_header(c, to);
	for (unsigned i = 0; i < n; i++)
		draw_panel(&panels[i]);
	fputs("</svg>\n", to);
	return ferror(to) ? -EIO : 0;
}
