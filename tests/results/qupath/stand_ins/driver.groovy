/* driver.groovy STATE SCRIPT [FOLDER]: runs a script on the image that STATE describes and prints what is there then. */
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import javafx.stage.DirectoryChooser
import qupath.lib.scripting.QP
import qupath.lib.scripting.Server
import qupath.lib.scripting.Thing

def state = new JsonSlurper().parse(new File(args[0]), 'UTF-8')
QP.server = new Server(width: state.width, height: state.height)
QP.hierarchy.all = state.objects.collect { new Thing(feature: it) }
QP.hierarchy.selected = QP.hierarchy.all.findAll { it.feature.id in state.selected }
DirectoryChooser.answer = state.chosen ? new File(state.chosen) : null
def binding = new Binding()
if (args.length > 2)
    binding.setVariable('args', args[2..-1] as String[])
try {
    // Under a name without a hyphen: Groovy 2.4 writes class files of an old kind, in whose names Java allows none.
    new GroovyShell(getClass().classLoader, binding).evaluate(new File(args[1]).getText('UTF-8'), 'Script1')
} catch (Exception error) {
    println "${error.getClass().simpleName}: ${error.message}"
}
println JsonOutput.toJson([objects: QP.hierarchy.all.collect { it.feature }, updates: QP.updates])
