package javafx.application

class Platform {
    static boolean isFxApplicationThread() { false }
    static void runLater(Runnable task) { new Thread(task).start() }
}
