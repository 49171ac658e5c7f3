package report

import (
	"fmt"
	"html"
	"image/color"
	"math"
	"strings"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// The colours of everything but data. Each is used for nothing else, because a
// page replaces them by its own.
var (
	paper = color.RGBA{0xFF, 0xFF, 0xFF, 0xFF}
	ink   = color.RGBA{0x1F, 0x23, 0x28, 0xFF}
	muted = color.RGBA{0x59, 0x63, 0x6E, 0xFF}
	rule  = color.RGBA{0xE1, 0xE4, 0xE8, 0xFF}
)

// themed replaces those colours in an SVG by the page's.
var themed = strings.NewReplacer(
	hex(paper), "var(--paper)", hex(ink), "var(--ink)", hex(muted), "var(--muted)", hex(rule), "var(--rule)",
	hex(kiloportColour), "var(--kiloport)")

func hex(c color.RGBA) string { return fmt.Sprintf("#%02X%02X%02X", c.R, c.G, c.B) }

func escape(s string) string { return html.EscapeString(s) }

// palette has the colours of Okabe and Ito that can be told apart by all kinds
// of eyes, on white and on dark.
var palette = []color.RGBA{
	{0xD5, 0x5E, 0x00, 0xFF}, // vermilion
	{0xE6, 0x9F, 0x00, 0xFF}, // orange
	{0xCC, 0x79, 0xA7, 0xFF}, // reddish purple
	{0x56, 0xB4, 0xE9, 0xFF}, // sky blue
	{0x8C, 0x6D, 0x31, 0xFF}, // brown
	{0x7F, 0x7F, 0x7F, 0xFF}, // grey
}

// The colours that are the same in every report.
var (
	kiloportColour = color.RGBA{0x00, 0x72, 0xB2, 0xFF} // blue
	nativeColour   = color.RGBA{0x00, 0x9E, 0x73, 0xFF} // green
)

// dashes tell lines apart where colours do not.
var dashes = [][]vg.Length{{7, 3}, {2, 2}, {9, 3, 2, 3}, {4, 4}, {12, 4}, {1, 3}, {6, 2, 1, 2, 1, 2}}

// A look is how everything of one tunnel is drawn.
type look struct {
	colour color.RGBA
	dashes []vg.Length
}

func (l look) line(width vg.Length) draw.LineStyle {
	return draw.LineStyle{Color: l.colour, Width: width, Dashes: l.dashes}
}

// faint is the tunnel's colour, nearly transparent.
func (l look) faint(opacity float64) color.Color {
	return color.NRGBA{l.colour.R, l.colour.G, l.colour.B, uint8(math.Round(255 * opacity))}
}

// looks gives every tunnel of a document the same look in all figures.
func looks(doc *Document) map[string]look {
	all := map[string]look{}
	others := 0
	taken := map[color.RGBA]bool{}
	for _, run := range doc.Runs {
		label := run.Tunnel.String()
		if _, done := all[label]; done {
			continue
		}
		own, known := ownColour(run.Tunnel.Name)
		if known && !taken[own] {
			taken[own] = true
			all[label] = look{colour: own}
			continue
		}
		all[label] = look{palette[others%len(palette)], dashes[others%len(dashes)]}
		others++
	}
	return all
}

// ownColour is that of a tunnel that has one in every report.
func ownColour(tunnel string) (color.RGBA, bool) {
	switch name := strings.ToLower(tunnel); {
	case strings.HasPrefix(name, "kiloport"):
		return kiloportColour, true
	case name == "no tunnel" || name == "none" || name == "native":
		return nativeColour, true
	}
	return color.RGBA{}, false
}

func sans(size vg.Length, c color.Color) draw.TextStyle {
	return draw.TextStyle{
		Color:   c,
		Font:    font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, size),
		Handler: text.Plain{Fonts: font.DefaultCache},
	}
}

func bold(size vg.Length, c color.Color) draw.TextStyle {
	style := sans(size, c)
	style.Font.Weight = xfont.WeightBold
	return style
}

// newPlot makes an empty plot in the style of this package.
func newPlot(x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		alignX, alignY := axis.Label.TextStyle.XAlign, axis.Label.TextStyle.YAlign
		axis.Label.TextStyle = sans(textSize, muted)
		axis.Label.TextStyle.XAlign, axis.Label.TextStyle.YAlign = alignX, alignY
		axis.Label.Padding = 4
		alignX, alignY = axis.Tick.Label.XAlign, axis.Tick.Label.YAlign
		axis.Tick.Label = sans(textSize-0.5, muted)
		axis.Tick.Label.XAlign, axis.Tick.Label.YAlign = alignX, alignY
		axis.Tick.LineStyle.Color, axis.LineStyle.Color = rule, muted
		axis.LineStyle.Width = 0.7
		axis.Padding = 3
	}
	p.X.Label.Text, p.Y.Label.Text = x, y
	grid := plotter.NewGrid()
	grid.Vertical = draw.LineStyle{Color: rule, Width: 0.6}
	grid.Horizontal = grid.Vertical
	p.Add(grid)
	return p
}

// logAxis makes an axis one of decimal logarithms, with the decades labelled.
// What is drawn on it goes through logTo. (A scale of the plot package would
// not do: it places the axis' label as if the axis were linear.)
func logAxis(axis *plot.Axis, low, high float64) {
	axis.Min, axis.Max = math.Log10(low), math.Log10(high)
	axis.Tick.Marker = decades{}
}

// labelled widens a part of a logarithmic axis to values that decades labels.
func labelled(low, high float64) (float64, float64) {
	steps := []float64{1, 2, 5}
	from, to := 0.0, math.Inf(1)
	for exp := math.Floor(math.Log10(low)) - 1; exp <= math.Ceil(math.Log10(high))+1; exp++ {
		for _, step := range steps {
			x := step * math.Pow(10, exp)
			if x <= low {
				from = max(from, x)
			}
			if x >= high {
				to = min(to, x)
			}
		}
	}
	return from, to
}

// logTo gives the place of a value on an axis made by logAxis; what lies
// outside of the axis is at its end.
func logTo(axis *plot.Axis, to func(float64) vg.Length) func(float64) vg.Length {
	return func(x float64) vg.Length {
		return to(min(max(math.Log10(max(x, axisLeast)), axis.Min), axis.Max))
	}
}

// decades are the ticks of an axis made by logAxis.
type decades struct{}

// Ticks implements [plot.Ticker].
func (decades) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	low, high = math.Pow(10, low), math.Pow(10, high)
	few := high/low < 300
	for exp := math.Floor(math.Log10(low)); ; exp++ {
		for digit := 1.0; digit < 10; digit++ {
			x := digit * math.Pow(10, exp)
			switch {
			case x > high*1.0001:
				return ticks
			case x < low*0.9999:
			case digit == 1 || few && (digit == 2 || digit == 5):
				ticks = append(ticks, plot.Tick{Value: math.Log10(x), Label: number(math.Round(x*1e6) / 1e6)})
			default:
				ticks = append(ticks, plot.Tick{Value: math.Log10(x)})
			}
		}
	}
}

// numbers are the ticks of a linear axis, with no more digits than they need.
type numbers struct{}

// Ticks implements [plot.Ticker].
func (numbers) Ticks(low, high float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/4)))
	for _, factor := range []float64{5, 2} {
		if (high-low)/(step*factor) >= 3 {
			step *= factor
			break
		}
	}
	var ticks []plot.Tick
	for i := math.Ceil(low/step - 1e-9); i*step <= high+step*1e-9; i++ {
		x := math.Round(i*step*1e9)/1e9 + 0 // + 0 makes 0 of -0
		ticks = append(ticks, plot.Tick{Value: x, Label: number(x)})
	}
	return ticks
}
