package qupath.lib.scripting

/** A region, as far as rectangles go. */
class Shape {
    List points

    boolean isArea() { true }
    double getBoundsX() { points.collect { it[0] }.min() }
    double getBoundsY() { points.collect { it[1] }.min() }
    double getBoundsWidth() { points.collect { it[0] }.max() - getBoundsX() }
    double getBoundsHeight() { points.collect { it[1] }.max() - getBoundsY() }
    double getCentroidX() { getBoundsX() + getBoundsWidth() / 2 }
    double getCentroidY() { getBoundsY() + getBoundsHeight() / 2 }
    boolean contains(double x, double y) {
        x >= getBoundsX() && x < getBoundsX() + getBoundsWidth() && y >= getBoundsY() && y < getBoundsY() + getBoundsHeight()
    }
}
