package report

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A Figure is one plot with its title and legend, ready to be written.
type Figure struct {
	// Name is the name of its files, without the ending.
	Name string
	// Title says what is shown, Subtitle under which conditions.
	Title, Subtitle string

	width, height vg.Length
	panels        []*plot.Plot // one above the other
	legend        []legendEntry
}

// A legendEntry is a line or a mark with its meaning.
type legendEntry struct {
	text  string
	style draw.LineStyle
	glyph draw.GlyphStyle // instead of a line, where it has a shape
}

// pngDPI gives PNGs two pixels for each point of a screen.
const pngDPI = 144

// WritePNG writes the figure as PNG.
func (f *Figure) WritePNG(w io.Writer) error {
	canvas := vgimg.NewWith(vgimg.UseWH(f.width, f.height), vgimg.UseDPI(pngDPI))
	f.draw(draw.New(canvas))
	if _, err := (vgimg.PngCanvas{Canvas: canvas}).WriteTo(w); err != nil {
		return fmt.Errorf("write %s as PNG: %w", f.Name, err)
	}
	return nil
}

// WriteSVG writes the figure as a whole SVG file. Its text stays text, set in
// Liberation Sans or what else is like Arial.
func (f *Figure) WriteSVG(w io.Writer) error {
	svg, err := f.svg()
	if err == nil {
		_, err = w.Write(svg)
	}
	if err != nil {
		return fmt.Errorf("write %s as SVG: %w", f.Name, err)
	}
	return nil
}

func (f *Figure) svg() ([]byte, error) {
	canvas := vgsvg.New(f.width, f.height)
	f.draw(draw.New(canvas))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(b.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif")), nil
}

// svgHead is all of an SVG file up to its first element's content.
var svgHead = regexp.MustCompile(`(?s)^.*?<svg[^>]*>`)

// inline gives the figure as an element of a page. It takes the page's colours
// for text, lines and background, so that it follows light and dark.
func (f *Figure) inline() (string, error) {
	svg, err := f.svg()
	if err != nil {
		return "", err
	}
	head := fmt.Sprintf(`<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, f.width.Points(), f.height.Points(), escape(f.Title+": "+f.Subtitle))
	body := string(svgHead.ReplaceAll(svg, nil))
	return head + themed.Replace(body), nil
}

// save writes the figure's files to a folder.
func (f *Figure) save(dir string) error {
	for ending, write := range map[string]func(io.Writer) error{".svg": f.WriteSVG, ".png": f.WritePNG} {
		file, err := os.Create(filepath.Join(dir, f.Name+ending))
		if err != nil {
			return err
		}
		if err := errors.Join(write(file), file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Distances inside a figure.
const (
	margin     = 14 * vg.Length(1)
	lineGap    = 5 * vg.Length(1)
	swatch     = 20 * vg.Length(1)
	legendGap  = 18 * vg.Length(1)
	headGap    = 10 * vg.Length(1)
	titleSize  = 15 * vg.Length(1)
	textSize   = 11 * vg.Length(1)
	legendSize = 11.5 * vg.Length(1)
)

func (f *Figure) draw(c draw.Canvas) {
	c.SetColor(paper)
	c.Fill(c.Rectangle.Path())
	c = draw.Crop(c, margin, -margin, margin, -margin)
	c = f.drawHead(c)
	c = f.drawLegend(c)
	rows := make([][]*plot.Plot, len(f.panels))
	for i, p := range f.panels {
		rows[i] = []*plot.Plot{p}
	}
	tiles := draw.Tiles{Rows: len(rows), Cols: 1, PadY: 12}
	for i, row := range plot.Align(rows, tiles, c) {
		rows[i][0].Draw(row[0])
	}
}

// drawHead draws title and subtitle, and returns what is left.
func (f *Figure) drawHead(c draw.Canvas) draw.Canvas {
	for _, line := range []struct {
		text  string
		style draw.TextStyle
	}{{f.Title, bold(titleSize, ink)}, {f.Subtitle, sans(textSize, muted)}} {
		line.style.YAlign = draw.YTop
		for _, text := range wrap(line.text, line.style, c.Max.X-c.Min.X) {
			c.FillText(line.style, vg.Point{X: c.Min.X, Y: c.Max.Y}, text)
			c = draw.Crop(c, 0, 0, 0, -(line.style.Height(text) + lineGap))
		}
	}
	return draw.Crop(c, 0, 0, 0, -headGap)
}

// wider is how much wider than here a text may come out where it is shown: not
// every machine has the letters of Arial.
const wider = 1.17

// widthOf is the width that a text may need.
func widthOf(text string, style draw.TextStyle) vg.Length { return wider * style.Width(text) }

// wrap breaks a text between words into lines of at most a width, none if it is
// empty.
func wrap(text string, style draw.TextStyle, width vg.Length) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		longer := strings.TrimSpace(line + " " + word)
		if line != "" && widthOf(longer, style) > width {
			lines = append(lines, line)
			longer = word
		}
		line = longer
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// drawLegend draws the legend in as many lines as it needs, and returns what is
// left.
func (f *Figure) drawLegend(c draw.Canvas) draw.Canvas {
	if len(f.legend) == 0 {
		return c
	}
	style := sans(legendSize, ink)
	style.YAlign = draw.YCenter
	line := style.Height("Mg") + lineGap
	x, y := c.Min.X, c.Max.Y-line/2
	for _, e := range f.legend {
		mark := swatch
		if e.glyph.Shape != nil {
			mark = 10
		}
		width := mark + lineGap + widthOf(e.text, style)
		if x > c.Min.X && x+width > c.Max.X {
			x, y = c.Min.X, y-line
		}
		if e.glyph.Shape != nil {
			c.DrawGlyph(e.glyph, vg.Point{X: x + mark/2, Y: y})
		} else {
			c.StrokeLine2(e.style, x, y, x+mark, y)
		}
		c.FillText(style, vg.Point{X: x + mark + lineGap, Y: y}, e.text)
		x += width + legendGap
	}
	return draw.Crop(c, 0, 0, 0, -(c.Max.Y - (y - line/2) + headGap))
}

// slug makes a file name out of words.
func slug(words string) string {
	return strings.Trim(notName.ReplaceAllString(strings.ToLower(words), "-"), "-")
}

var notName = regexp.MustCompile(`[^a-z0-9.]+`)
