package qupath.lib.scripting

/** The few things of QuPath that the scripts use, with the signatures of its javadoc; no code of it. */
class QP {
    static Hierarchy hierarchy = new Hierarchy()
    static Server server = new Server()
    static int updates = 0

    static Hierarchy getCurrentHierarchy() { hierarchy }
    static Server getCurrentServer() { server }
    static void fireHierarchyUpdate() { updates++ }
}
